"""Runs the prediction service in the foreground, or ends it: `python -m tasks.serving [--stop]`.

A laptop, Compose, Kubernetes and the stage `deploy` all start it this way.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click

from tasks.errors import SettingsError, exit_code_of
from tasks.serving import process
from tasks.serving.model_reference import parse
from tasks.settings import Settings, load_settings

NOT_STARTED = 3  # the exit code of uvicorn's own command, which has logged the reason


@click.command()
@click.option("--host", help="Address to listen on; default: the one in SERVING_URL.")
@click.option("--port", type=int, help="Port to listen on; default: the one in SERVING_URL.")
@click.option("--stop", is_flag=True, help="End the service recorded in PIPELINE_HOME/serving.pid.")
def command(host: str | None, port: int | None, stop: bool) -> None:
    """Run the prediction service in the foreground, or end it."""
    sys.exit(exit_code_of(end if stop else lambda: run(host, port)))


def run(host: str | None, port: int | None) -> None:
    """Check the settings and the address, then serve until a signal ends the process."""
    settings = load_settings()
    listener = prepare(settings, host, port)
    # uvicorn raises SIGTERM again when it has finished; its default action would leave the pid file behind.
    signal.signal(signal.SIGTERM, _leave)
    with process.recorded(settings.pipeline_home):
        serve(settings, listener)


def end() -> None:
    """End the service of this PIPELINE_HOME, if there is one."""
    pid = process.stop(load_settings().pipeline_home)
    print(f"service (pid {pid}) ended" if pid else "no service is running")


def prepare(settings: Settings, host: str | None, port: int | None) -> socket.socket:
    """Check the settings before BentoML is imported, and return a socket that listens on the address.

    Raises:
        SettingsError: SERVING_MODEL or the address cannot be used, or this PIPELINE_HOME already has a service.
    """
    parse(settings.serving_model, settings.serving_registered_model)
    running = process.find(settings.pipeline_home)
    if running is not None:
        raise SettingsError(
            f"PIPELINE_HOME={settings.pipeline_home} has a service already, pid {running}; "
            "end it with: python -m tasks serve --stop"
        )
    return _listener(settings, host, port)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on a socket until SIGTERM or SIGINT, then finish the requests in progress.

    After SIGTERM the service keeps answering for SERVING_DRAIN_SECONDS.
    """
    home = settings.pipeline_home.resolve()
    bento, models = home / "bentoml", home / "served-models"  # what BentoML keeps on disk; the model in service
    for folder in (bento, models):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    os.environ |= {
        "BENTOML_HOME": str(bento),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.tracking_uri,
    }
    # The service asks the registry every few seconds anyway: a request that fails should fail soon.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from tasks.serving.workers import Workers, number_of_workers

    # In a folder of its own: the path of such a socket may be 100 bytes long, and that of PIPELINE_HOME is the user's.
    with tempfile.TemporaryDirectory(prefix="serving-") as state:
        path = Path(state) / "control"
        workers = Workers(number_of_workers(settings.serving_workers), listener, path, Path(state))
        workers.start()  # at once: they import their packages while this process imports its own
        # Imported after the environment is set: BentoML reads it during its import.
        from tasks.serving.application import control_application
        from tasks.serving.control import Control, ControlServer

        app = control_application(Control(settings, workers, models))
        server = ControlServer(app, workers, path, log_config=None, access_log=False, ws="none")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has finished
            server.run()
    if not server.started:
        sys.exit(NOT_STARTED)


def _listener(settings: Settings, host: str | None, port: int | None) -> socket.socket:
    """Return a socket that listens on the address of SERVING_URL, or on that of the command line."""
    url = urlsplit(settings.serving_url)
    name = host or url.hostname or ""
    try:
        address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
        number = port or url.port or 80
    except ValueError as error:
        raise SettingsError(
            f"SERVING_URL={settings.serving_url!r} is not an address of this machine; add --host 0.0.0.0 --port 3000"
        ) from error
    # Imported here, as everything that takes time: `process.find` does not know this process yet.
    from tasks.serving.accepting import listening

    try:
        return listening(str(address), number, ipv6=address.version == 6)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {address} port {number} ({error.strerror}); end the program that uses it, "
            "or set SERVING_URL or --port to another one"
        ) from error


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    command(prog_name="python -m tasks.serving")

"""Start the service in the foreground, on a laptop, in Compose and by the deploy stage alike; or end it.

python -m tasks.serving [--host 0.0.0.0] [--port 3000]
python -m tasks.serving --stop
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
from types import FrameType
from urllib.parse import urlsplit

from tasks.errors import PipelineError, SettingsError
from tasks.serving import process
from tasks.serving.model_reference import parse
from tasks.settings import Settings, load_settings

GRACE_SECONDS = 10
NOT_STARTED = 3  # as uvicorn's own command ends; it has said why


def main(arguments: list[str] | None = None) -> int:
    """Serve, or end the service of PIPELINE_HOME; return an exit code of `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--host", help="address to listen on; default: the one in SERVING_URL")
    parser.add_argument("--port", type=int, help="port to listen on; default: the one in SERVING_URL")
    parser.add_argument("--stop", action="store_true", help="end the service recorded in PIPELINE_HOME/serving.pid")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        if options.stop:
            pid = process.stop(settings.pipeline_home)
            print(f"service (pid {pid}) ended" if pid else "no service to end")
            return 0
        address, port = prepare(settings, options.host, options.port)
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    # uvicorn raises the signal again when it is done; by default that would end the process and leave its pid file.
    signal.signal(signal.SIGTERM, _leave)
    with process.recorded(settings.pipeline_home):
        serve(settings, address, port)
    return 0


def prepare(settings: Settings, host: str | None, port: int | None) -> tuple[str, int]:
    """Check what is possible before BentoML is imported; return the address and port to listen on.

    Raises:
        SettingsError: SERVING_MODEL or the address cannot be used, or a service of this PIPELINE_HOME runs already.
    """
    parse(settings.serving_model, settings.serving_registered_model)
    running = process.find(settings.pipeline_home)
    if running is not None:
        raise SettingsError(
            f"PIPELINE_HOME={settings.pipeline_home} has a service already, pid {running}; "
            "end it with: python -m tasks.serving --stop"
        )
    return _address(settings, host, port)


def serve(settings: Settings, address: str, port: int) -> None:
    """Serve on an IP address and port until SIGTERM or SIGINT, then finish the requests in progress.

    After SIGTERM the service keeps answering for SERVING_DRAIN_SECONDS.
    """
    home = settings.pipeline_home.resolve() / "bentoml"  # what BentoML and its metrics keep on disk
    shutil.rmtree(home, ignore_errors=True)
    (home / "metrics").mkdir(parents=True)
    os.environ |= {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.tracking_uri,
    }
    # The registry is polled every few seconds anyway, so a request that fails should fail soon.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # After the environment is set, because BentoML and Prometheus read it when imported.
    from tasks.serving.draining import DrainingServer
    from tasks.serving.http_errors import KnownPaths
    from tasks.serving.service import service

    # One process, without BentoML's supervisor: that would import all of BentoML a second time before the model can
    # load, and leave several processes to find and end. For more workers, start more containers.
    app = KnownPaths(service.to_asgi(is_main=True))
    server = DrainingServer(
        app, settings.serving_drain_seconds, host=address, port=port, ws="none", log_config=None, access_log=False,
        server_header=False, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it is done
        server.run()
    if not server.started:
        sys.exit(NOT_STARTED)


def _address(settings: Settings, host: str | None, port: int | None) -> tuple[str, int]:
    """Return the IP address and port to listen on, after checking that the port is free."""
    url = urlsplit(settings.serving_url)
    name = host or url.hostname or ""
    try:
        address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
        number = port or url.port or 80
    except ValueError as error:
        raise SettingsError(
            f"SERVING_URL={settings.serving_url!r} is not an address to listen on; add --host 0.0.0.0 --port 3000"
        ) from error
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(address), number))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {address} port {number} ({error.strerror}); stop the program that does, "
                "or set SERVING_URL or --port to another"
            ) from error
    return str(address), number


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())

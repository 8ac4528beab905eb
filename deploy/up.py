"""Start the stack and wait until it is healthy, or stop it.

Before anything starts, `.env` and the ports are checked. When a service fails, the last line it wrote is shown at
once, instead of after Compose's timeout. When everything is up, MLflow is asked whether it accepts the login of `.env`.
Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import doctor, engine, store_keys, store_policies
from deploy.env_file import has_profile, read_as_compose
from deploy.errors import CONFIG, UNAVAILABLE, DeployError
from deploy.stack_files import published, required
from images.third_party import FetchError, fetch_all

RESTARTS = 2  # a service that restarted this often while we waited is failing, not starting
TIMEOUT = 600.0  # seconds for the services of one file to become healthy
FAILED = 1
FOR_STAGES = "serving"  # the one service of docker-compose-mlops.yml that stages started from this machine need
EXPORT = "export-onnx"  # runs once beside it
WITH_RAY = "ray-worker"


class Project:
    """One compose file with one `.env`."""

    def __init__(self, file: str, env_file: Path) -> None:
        self._command = engine.compose(file, env_file=env_file)

    def up(self, services: Sequence[str]) -> None:
        """Start services (none means all) and wait until all are healthy; Compose shows the progress.

        Raises:
            DeployError: with the last line of each service that failed; Compose's own output is on the terminal.
        """
        self.fetch(services)
        before = {c["Id"]: c["RestartCount"] for c in self._containers()}
        deadline = time.monotonic() + TIMEOUT
        command = [*self._command, "up", "--detach", "--wait", "--quiet-pull", *services]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:  # noqa: S603  # compose, arguments of ours
            while process.poll() is None:
                failing = [c for c in self._containers() if c["RestartCount"] - before.get(c["Id"], 0) >= RESTARTS]
                if failing or time.monotonic() > deadline:
                    process.terminate()
                    process.wait()
                    break
                time.sleep(1)
        if process.returncode != 0:
            unwell = [self._last_line(c) for c in self._containers() if not well(c)]
            why = unwell or [f"docker compose failed with exit code {process.returncode}; see its output above"]
            raise DeployError("\n".join(why), FAILED)

    def stop(self, services: Sequence[str]) -> None:
        """Stop services.

        Raises:
            DeployError: Compose could not; its own output is on the terminal.
        """
        if code := self.run("stop", *services):
            raise DeployError(
                f"docker compose stop {' '.join(services)} failed with exit code {code}; see above", FAILED
            )

    def fetch(self, services: Sequence[str]) -> None:
        """Have the images of others that services need on this engine, by their digests; Compose then finds their tags.

        Raises:
            DeployError: one is not here and cannot be pulled.
        """
        command = [*self._command, "config", "--images", *services]
        asked = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  # compose, arguments of ours
        try:
            fetch_all(asked.stdout.split())  # nothing if Compose refuses its files: `up` says why
        except FetchError as error:
            raise DeployError(str(error), UNAVAILABLE) from None

    def run(self, *arguments: str) -> int:
        """Run another command of Compose and return its exit code."""
        return subprocess.run([*self._command, *arguments]).returncode  # noqa: S603  # compose, arguments of ours

    def _containers(self) -> list[dict[str, Any]]:
        """Return what the engine says about the project's containers."""
        found = subprocess.run([*self._command, "ps", "--all", "--quiet"], capture_output=True, text=True)  # noqa: S603
        names = found.stdout.split()
        if not names:
            return []
        shown = subprocess.run(["docker", "inspect", *names], capture_output=True, text=True)  # noqa: S603, S607
        return list(json.loads(shown.stdout or "[]"))

    def _last_line(self, container: dict[str, Any]) -> str:
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        command = ["docker", "logs", "--tail", "20", container["Id"]]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
        lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
        return f"{service}: {lines[-1] if lines else 'wrote nothing'} (more: make logs S={service})"


def well(container: dict[str, Any]) -> bool:
    """Tell whether a container is healthy, has finished its work, or only waits for others."""
    state = container["State"]
    if state["Status"] in ("created", "exited"):
        return bool(state["ExitCode"] == 0)
    return bool(state["Status"] == "running" and state.get("Health", {}).get("Status", "healthy") == "healthy")


def before(folder: Path, env_file: Path) -> list[str]:
    """Return what keeps the stack from starting, judged by `.env` and the ports: one line each, none if all is well."""
    values = read_as_compose(env_file)
    empty = sorted(name for name in required(folder) if not values.get(name))
    if empty:
        return [f"{env_file}: {', '.join(empty)} empty; run make setup"]
    try:
        ours = engine.ports_of_the_stack(values)
    except OSError as error:
        return [f"{error}; install Docker Engine, start it, and join the group docker"]
    found = doctor.check_ports(published(folder, values), ours)
    return [f"port {finding.text}" for finding in found if finding.level == "fail"]


def after(env_file: Path) -> list[str]:
    """Return what is wrong with a stack that is up: one line each, none if all is well."""
    values = read_as_compose(env_file)
    port = int(values.get("MLFLOW_PORT") or 5000)
    login = values["MLFLOW_TRACKING_USERNAME"], values["MLFLOW_TRACKING_PASSWORD"]
    found = doctor.check_mlflow(port, login, [f"127.0.0.1:{port}"])
    return [f"mlflow: {finding.text}" for finding in found if finding.level == "fail"]


def start(folder: Path, env_file: Path, services: Sequence[str] | None) -> None:
    """Start the compose files, one after the other.

    Args:
        folder: the repository.
        env_file: `.env` of the stack.
        services: those of docker-compose-mlops.yml to start; an empty list means all, None leaves that file out.

    Raises:
        DeployError: what is wrong, one line each.
    """
    if wrong := before(folder, env_file):
        raise DeployError("\n".join(wrong), CONFIG)
    refused = make_store_keys(env_file)
    work = [] if services is None else [(engine.WORK, services)]
    for file, wanted in [(engine.STATE, ()), *work]:
        Project(file, env_file).up(wanted)
        if refused:  # not before: `bucket` says more about a store that refuses its root
            raise refused
        if wrong := after(env_file):
            raise DeployError("\n".join(wrong), FAILED)
    if services is not None and (not services or FOR_STAGES in services):
        start_export(env_file)


def make_store_keys(env_file: Path) -> DeployError | None:
    """Start the stack's own store and have it know the keys per purpose.

    Returns:
        Why it does not know those that `.env` has. Where it has none, that is one line on standard error.

    Raises:
        DeployError: the store does not start.
    """
    values = read_as_compose(env_file)
    if values.get("S3_ENDPOINT_URL"):
        return None
    Project(engine.STATE, env_file).up(["s3"])
    try:
        store_keys.ensure(env_file, values)
    except store_keys.StoreKeysError as error:
        if any(values.get(name) for name in store_policies.VARIABLES):
            return DeployError(
                f"keys of the store: {error}; empty S3_*_ACCESS_KEY and S3_*_SECRET_KEY of purposes in "
                f"{env_file} to go back to one key",
                error.code,
            )
        print(f"every program uses S3_ACCESS_KEY: {error} (docs/stack.md, Keys of the store)", file=sys.stderr)
    return None


def start_export(env_file: Path) -> None:
    """Start the export of a version that an earlier release registered; the stack is up, whatever becomes of it."""
    options = ["--detach", "--no-deps", "--quiet-pull", "--scale", f"{EXPORT}=1", EXPORT]
    if Project(engine.WORK, env_file).run("up", *options) != 0:
        print(
            f"{EXPORT} did not start, see above; if an earlier release registered the model in service, run "
            "make export-onnx RUNTIME=docker",
            file=sys.stderr,
        )


def needed_by_stages(env_file: Path) -> list[str]:
    """Return the services that stages started from this machine need: no Airflow, but Ray where it is turned on."""
    return [FOR_STAGES, *([WITH_RAY] if has_profile(read_as_compose(env_file), "ray") else [])]


def stop(env_file: Path, *, volumes: bool) -> int:
    """Stop everything, also services of profiles that were turned off meanwhile; return Compose's exit code.

    Args:
        env_file: `.env` of the stack.
        volumes: delete the data, too.
    """
    options = ["--volumes"] if volumes else []
    code = Project(engine.WORK, env_file).run("--profile", "*", "down", *options)
    return code or Project(engine.STATE, env_file).run("down", *options)

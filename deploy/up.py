"""Start the stack and wait until it is healthy; what keeps it from that is told in one line, with its fix.

    python -m deploy.up [--env-file FILE] [SERVICE ...]      services of docker-compose-mlops.yml; none: all

Before anything starts, `.env` and the ports are looked at. A service that does not start is shown by its own last
words, as soon as it has failed, not when compose has waited long enough. When all is up, MLflow is asked whether it
takes the login of `.env`. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import doctor, engine
from deploy.setup_env import seen_by_compose
from deploy.stack_files import published, required

ROOT = Path(__file__).resolve().parent.parent
FILES = ("docker-compose.yml", "docker-compose-mlops.yml")
RESTARTS = 2  # a service that ended as often as this while it was waited for is not starting, but failing
PATIENCE = 600.0  # seconds for one file to be healthy; pulled images take longest
FAILED, REFUSED = 1, 78


class UpError(Exception):
    """What is wrong, a line for each thing, and an exit code."""

    def __init__(self, lines: Sequence[str], code: int = FAILED) -> None:
        super().__init__("\n".join(lines))
        self.code = code


class Project:
    """One compose file with one `.env`."""

    def __init__(self, file: str, env_file: Path) -> None:
        self._command = ["docker", "compose", "--file", str(ROOT / file), "--env-file", str(env_file)]

    def up(self, services: Sequence[str]) -> None:
        """Start, and wait until all are healthy; compose shows how far it is.

        Raises:
            UpError: with the last words of each service that failed; compose's own are on the terminal.
        """
        before = {c["Id"]: c["RestartCount"] for c in self._containers()}
        deadline = time.monotonic() + PATIENCE
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
            unwell = [self._last_words(c) for c in self._containers() if not well(c)]
            raise UpError(unwell or [f"docker compose failed with exit code {process.returncode}; see its words above"])

    def _containers(self) -> list[dict[str, Any]]:
        """What the engine says of the project's containers."""
        found = subprocess.run([*self._command, "ps", "--all", "--quiet"], capture_output=True, text=True)  # noqa: S603
        names = found.stdout.split()
        if not names:
            return []
        shown = subprocess.run(["docker", "inspect", *names], capture_output=True, text=True)  # noqa: S603, S607
        return list(json.loads(shown.stdout or "[]"))

    def _last_words(self, container: dict[str, Any]) -> str:
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        command = ["docker", "logs", "--tail", "20", container["Id"]]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
        lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
        return f"{service}: {lines[-1] if lines else 'said nothing'} (more: make logs S={service})"


def well(container: dict[str, Any]) -> bool:
    """Tell whether a container is healthy, has done its work, or only waits for others."""
    state = container["State"]
    if state["Status"] in ("created", "exited"):
        return bool(state["ExitCode"] == 0)
    return bool(state["Status"] == "running" and state.get("Health", {}).get("Status", "healthy") == "healthy")


def before(folder: Path, env_file: Path) -> list[str]:
    """What would keep the stack from starting, by `.env` and the ports: lines, none when all is well."""
    values = seen_by_compose(env_file)
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
    """What is wrong with a stack that is up: lines, none when all is well."""
    values = seen_by_compose(env_file)
    port = int(values.get("MLFLOW_PORT") or 5000)
    login = values["MLFLOW_TRACKING_USERNAME"], values["MLFLOW_TRACKING_PASSWORD"]
    found = doctor.check_mlflow(port, login, [f"127.0.0.1:{port}"])
    return [f"mlflow: {finding.text}" for finding in found if finding.level == "fail"]


def start(folder: Path, env_file: Path, services: Sequence[str]) -> None:
    """Start both files, one after the other.

    Raises:
        UpError: naming what is wrong, in one line each.
    """
    try:
        wrong = before(folder, env_file)
    except FileNotFoundError:
        raise UpError([f"{env_file} is missing; run make setup"], REFUSED) from None
    except ValueError as error:
        raise UpError([f"{env_file}: {error}; correct the line"], REFUSED) from None
    if wrong:
        raise UpError(wrong, REFUSED)
    for file, wanted in zip(FILES, ((), services), strict=True):
        Project(file, env_file).up(wanted)
        wrong = after(env_file)
        if wrong:
            raise UpError(wrong)


def main(arguments: Sequence[str]) -> int:
    """Start, and return an exit code: 0 when all is healthy."""
    parser = argparse.ArgumentParser(prog="deploy.up", description="Start the stack and wait until it is healthy.")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    parser.add_argument("services", nargs="*")
    given = parser.parse_args(arguments)
    try:
        start(ROOT, given.env_file, given.services)
    except UpError as error:
        for line in str(error).splitlines():
            print(f"up: {line}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

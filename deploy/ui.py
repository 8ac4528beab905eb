"""Airflow (standalone) and MLflow's pages for work on this machine; needs the environment of deploy/env.sh.

Each program runs in a process group of its own. `.local/run/NAME.pid` holds its process ID and start time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import UNAVAILABLE, DeployError

START_SECONDS = 180.0
STOP_SECONDS = 10.0
TAIL = 15  # lines of the log shown when a program does not start


@dataclass(frozen=True)
class Program:
    """A program whose state is under PIPELINE_HOME."""

    name: str
    home: Path

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.home / "logs" / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.home / "run" / f"{self.name}.pid"

    def group(self) -> int | None:
        """Return its process group while it runs; None when it does not, or the ID is another program's by now."""
        try:
            pid, born = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == born else None

    def start(self, port: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it unless it runs.

        Raises:
            DeployError: another program listens on its port.
        """
        if self.group() is not None:
            return
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                fix = f"stop it, or set {self.name.upper()}_PORT to a free one"
                raise DeployError(f"port {port} is taken by another program; {fix}", UNAVAILABLE)
        for folder in (self.log.parent, self._pid_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            try:
                process = subprocess.Popen(  # noqa: S603  # arguments of ours
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError:
                raise DeployError(f"{command[0]} is not installed; run make install", UNAVAILABLE) from None
        self._pid_file.write_text(f"{process.pid} {_start_time(process.pid)}\n")

    def wait(self, url: str, seconds: float = START_SECONDS) -> None:
        """Wait until it answers at a URL.

        Raises:
            DeployError: it ended or does not answer in time; with the end of its log.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + seconds
        while self.group() is not None and time.monotonic() < deadline:
            with suppress(OSError):
                opener.open(url, timeout=2).close()
                return
            time.sleep(0.5)
        end = self.log.read_text(errors="replace").splitlines()[-TAIL:]
        raise DeployError("\n".join([f"{self.name} did not start; the end of {self.log}:", *end]), UNAVAILABLE)

    def stop(self) -> bool:
        """End it and everything it started; return whether it ran."""
        group = self.group()
        if group is not None:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while self.group() is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._pid_file.unlink(missing_ok=True)
        return group is not None


def _start_time(pid: int) -> str:
    """Return when a process started, as the system tells it; empty when it is gone or a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return ""
        shown = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)  # noqa: S603
        return "-".join(shown.stdout.split())
    return "" if state == "Z" else rest[18]


def start() -> None:
    """Start Airflow, with RUNTIME=local also MLflow, and print their addresses and the login.

    Raises:
        DeployError: a port is taken, or a program does not start.
    """
    home = Path(os.environ["PIPELINE_HOME"])
    airflow_port, mlflow_port = _port("AIRFLOW_PORT", 8080), _port("MLFLOW_PORT", 5000)
    if os.environ["PIPELINE_RUNTIME"] == "local":
        mlflow = Program("mlflow", home)
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
        command += ["--default-artifact-root", f"file://{home}/artifacts", "--no-serve-artifacts"]
        mlflow.start(mlflow_port, command, os.environ)
        mlflow.wait(f"http://127.0.0.1:{mlflow_port}/health")
    environment = os.environ | {
        # A task's token must outlive the longest execution_timeout, or Airflow ends a long training as if it were lost.
        "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "86400",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(airflow_port),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{airflow_port}/execution/",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{airflow_port}",
    }
    airflow = Program("airflow", home)
    if airflow.group() is None:
        made = subprocess.run([sys.executable, "-m", "pipeline", "pool"], env=environment)  # ours
        if made.returncode != 0:
            raise DeployError("Airflow's pool for the stages could not be made; see above", made.returncode)
    airflow.start(airflow_port, ["airflow", "standalone"], environment)
    airflow.wait(f"http://127.0.0.1:{airflow_port}/api/v2/version")
    passwords = Path(os.environ["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated"
    password = json.loads(passwords.read_text(encoding="utf-8"))["admin"]
    print(f"Airflow  http://127.0.0.1:{airflow_port}   user admin, password {password}")
    print(f"MLflow   http://127.0.0.1:{mlflow_port}")
    print(f"Stop them with make stop; their logs are in {airflow.log.parent}")


def stop() -> None:
    """Stop what `start` started; data stay."""
    for name in ("airflow", "mlflow"):
        if Program(name, Path(os.environ["PIPELINE_HOME"])).stop():
            print(f"{name} stopped")


def _port(variable: str, default: int) -> int:
    return int(os.environ.get(variable) or default)

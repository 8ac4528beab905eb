"""Run a command on this machine with the cluster's MLflow and service at 127.0.0.1 while it runs.

MLflow is at MLFLOW_PORT of the environment (5000), the service at SERVING_PORT (3000). A tunnel that ends because its
pod was replaced is reopened to another pod; one that cannot be opened ends the command. The exit code is the command's.
Standard library only.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from deploy.env_file import ROOT
from deploy.errors import CONFIG
from deploy.kubernetes.cluster import Cluster, ClusterError

TIMEOUT = 60.0  # seconds for a tunnel to open or reopen: a pod has to start
PAUSE = 0.2
GRACE = 30.0  # seconds for the command to end when a tunnel is gone
KUBECTL_GRACE = 5.0
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_FOUND = 127
# Ends kubectl when this program ends, however it ends.
SUPERVISOR = ROOT / "plugins" / "pipeline" / "local" / "supervisor.py"


@dataclass(frozen=True)
class Service:
    """A service of the cluster, and the port of this machine that leads to it."""

    name: str
    port: int
    """The service's."""
    variable: str
    """The environment variable that sets another port of this machine."""

    def local(self, environment: Mapping[str, str]) -> int:
        """Return the port of this machine.

        Raises:
            ClusterError: the variable is not a port.
        """
        text = environment.get(self.variable) or str(self.port)
        if not (text.isdecimal() and 0 < int(text) < 65536):
            raise ClusterError(f"{self.variable}={text!r} is not a port; give a number from 1 to 65535", CONFIG)
        return int(text)


MLFLOW, SERVING = Service("mlflow", 5000, "MLFLOW_PORT"), Service("serving", 3000, "SERVING_PORT")
STORE = Service("s3", 9000, "S3_PORT")


class Tunnel:
    """One `kubectl port-forward`, opened again when it ends."""

    def __init__(self, cluster: Cluster, service: Service, port: int) -> None:
        self._service = service
        # Any running pod will do: before the first champion none is ready.
        target = ("port-forward", "--address", "127.0.0.1", f"service/{service.name}", f"{port}:{service.port}")
        self._command = cluster.command(*target)
        self._last_line = ""
        self._lifeline = -1  # the supervisor ends kubectl when this is closed
        self._process: subprocess.Popen[str] | None = None
        self._open = threading.Event()
        self._deadline = time.monotonic() + TIMEOUT

    def open(self) -> None:
        """Start it; `check` tells when it is open."""
        self._open.clear()
        watched, self._lifeline = os.pipe()
        supervised = [sys.executable, "-I", str(SUPERVISOR), str(watched), str(KUBECTL_GRACE), *self._command]
        self._process = subprocess.Popen(  # noqa: S603  # kubectl, with arguments of ours
            supervised, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            pass_fds=(watched,), start_new_session=True,  # Ctrl-C is for the command
        )  # fmt: skip
        os.close(watched)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def check(self) -> bool:
        """Tell whether it is open; reopen it when it has ended.

        Raises:
            ClusterError: it could not be opened for TIMEOUT seconds.
        """
        assert self._process is not None  # noqa: S101  # opened before it is checked
        if self._process.poll() is None and self._open.is_set():
            self._deadline = time.monotonic() + TIMEOUT
            return True
        if time.monotonic() > self._deadline:
            raise ClusterError(
                f"no connection to service/{self._service.name} for {TIMEOUT:.0f} s "
                f"({self._last_line or 'kubectl wrote nothing'}); run make kubernetes-verify"
            )
        if self._process.poll() is not None:
            self.close()
            time.sleep(PAUSE)
            self.open()
        return False

    def close(self) -> None:
        """End it."""
        if self._process is not None and self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
            self._process.wait()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        with process.stdout:
            for line in process.stdout:
                if line.startswith("Forwarding from"):
                    self._open.set()
                elif not line.startswith("Handling connection") and line.strip():
                    self._last_line = line.strip()


def require_free(port: int, variable: str) -> None:
    """Require that no other program uses a port.

    Raises:
        ClusterError: one does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ClusterError(
                f"port {port} of this machine cannot be used ({error.strerror}); stop what listens there, or set "
                f"{variable} to another"
            ) from None


def require_allowed(cluster: Cluster, port: int) -> None:
    """Require that MLflow accepts requests for a port of this machine: it compares the Host header, port included.

    Raises:
        ClusterError: it would answer 403, or there are no settings.
    """
    settings = json.loads(cluster.run("get", "configmap", "settings", "--output", "json"))["data"]
    hosts = str(settings.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")).split(",")
    if not any(fnmatch.fnmatchcase(f"127.0.0.1:{port}", host) for host in hosts):
        raise ClusterError(
            f"MLflow would refuse 127.0.0.1:{port}; unset {MLFLOW.variable}, or add it to MLFLOW_SERVER_ALLOWED_HOSTS "
            "in the overlay's settings.env and run make kubernetes-up",
            CONFIG,
        )


def forward(cluster: Cluster, command: Sequence[str], environment: Mapping[str, str], *, store: bool = False) -> int:
    """Run a command with the tunnels open and return its exit code; 128 plus the number when a signal ended it.

    Args:
        cluster: where the services are.
        command: what to run.
        environment: of the command; may set other ports of this machine.
        store: open one to the S3 store as well, where that is in the cluster; S3_ENDPOINT_URL then leads to it.

    Raises:
        ClusterError: a port is taken, or a tunnel cannot be opened; the command was ended.
    """
    services = [MLFLOW, SERVING]
    if store and cluster.run("get", "service", STORE.name, "--ignore-not-found"):
        services.append(STORE)
    ports = {service: service.local(environment) for service in services}
    variables = dict(environment)
    if STORE in ports:
        variables["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{ports[STORE]}"
    for service, port in ports.items():
        require_free(port, service.variable)
    require_allowed(cluster, ports[MLFLOW])
    got: list[int] = []  # signals; noted first and passed on later, so that none interrupts a step
    with ExitStack() as ended:
        for name in PASSED_ON:
            ended.callback(signal.signal, name, signal.signal(name, lambda number, _: got.append(number)))
        tunnels = [Tunnel(cluster, service, port) for service, port in ports.items()]
        for one in tunnels:
            ended.callback(one.close)
            one.open()
        while not all(one.check() for one in tunnels):
            if got:
                return 128 + got[0]
            time.sleep(PAUSE)
        child = _start(command, variables)
        ended.callback(_end, child)
        while True:
            try:
                code = child.wait(PAUSE)
            except subprocess.TimeoutExpired:
                _pass_on(got, child)
                for one in tunnels:
                    one.check()
            else:
                return code if code >= 0 else 128 - code


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=environment)  # noqa: S603  # the user's command
    except OSError as error:
        raise ClusterError(f"{command[0]!r} cannot be started ({error.strerror}); correct it", NOT_FOUND) from None


def _pass_on(got: list[int], child: subprocess.Popen[bytes]) -> None:
    while got:
        number = got.pop(0)
        if number != signal.SIGINT or not sys.stdin.isatty():  # Ctrl-C: the terminal sends it to the command as well
            child.send_signal(number)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

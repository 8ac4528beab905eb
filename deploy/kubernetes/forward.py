"""Run a command on this machine with the cluster's MLflow and service at 127.0.0.1, as long as it runs.

    python -m deploy.kubernetes.forward [--namespace NAME] [--store] -- COMMAND ...

MLflow is at MLFLOW_PORT of the environment (5000), the service at SERVING_PORT (3000). A way that ends, because its
pod was replaced, is opened again to another pod; one that cannot be opened ends the command. The exit code is the
command's. Standard library only.
"""

from __future__ import annotations

import argparse
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

from deploy.kubernetes.cluster import NAMESPACE, REFUSED, Cluster, ClusterError

PATIENCE = 60.0  # seconds for a way to open, or to open again: a pod that starts
PAUSE = 0.2
GRACE = 30.0  # for a command that is ended because a way is gone
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_FOUND = 127
# kubectl ends when standard input does, which is when this program ends, however it ends.
TIED = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
(read -r _ <&3; kill $child) >/dev/null 2>&1 &
wait $child
kill $! 2>/dev/null
"""


@dataclass(frozen=True)
class Way:
    """A port of this machine that leads to a service of the cluster."""

    service: str
    port: int
    """Of the service."""
    variable: str
    """Of the environment, with another port of this machine."""

    def local(self, environment: Mapping[str, str]) -> int:
        """The port of this machine.

        Raises:
            ClusterError: the variable is no port.
        """
        text = environment.get(self.variable) or str(self.port)
        if not (text.isdecimal() and 0 < int(text) < 65536):
            raise ClusterError(f"{self.variable}={text!r} is no port; give a number from 1 to 65535", REFUSED)
        return int(text)


MLFLOW, SERVING = Way("mlflow", 5000, "MLFLOW_PORT"), Way("serving", 3000, "SERVING_PORT")
STORE = Way("s3", 9000, "S3_PORT")


class Forward:
    """One `kubectl port-forward`, opened again when it ends."""

    def __init__(self, cluster: Cluster, way: Way, port: int) -> None:
        self._way, self._port = way, port
        # Any running pod will do, and before the first champion none is ready; kubectl asks for no more.
        target = ("port-forward", "--address", "127.0.0.1", f"service/{way.service}", f"{port}:{way.port}")
        self._command = ["sh", "-c", TIED, "sh", *cluster.command(*target)]
        self._words = ""
        self._process: subprocess.Popen[str] | None = None
        self._open = threading.Event()
        self._deadline = time.monotonic() + PATIENCE

    def open(self) -> None:
        """Start it; `tend` tells when it is there."""
        self._open.clear()
        self._process = subprocess.Popen(  # noqa: S603  # kubectl, with arguments of ours
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,  # Ctrl-C is for the command
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def tend(self) -> bool:
        """Tell whether it is open; one that ended is opened again.

        Raises:
            ClusterError: it could not be opened for PATIENCE seconds.
        """
        assert self._process is not None  # noqa: S101  # opened before it is tended
        if self._process.poll() is None and self._open.is_set():
            self._deadline = time.monotonic() + PATIENCE
            return True
        if time.monotonic() > self._deadline:
            raise ClusterError(
                f"no way to service/{self._way.service} for {PATIENCE:.0f} s "
                f"({self._words or 'kubectl says nothing'}); run make kubernetes-verify"
            )
        if self._process.poll() is not None:
            self.close()
            time.sleep(PAUSE)
            self.open()
        return False

    def close(self) -> None:
        """End it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        with process.stdout:
            for line in process.stdout:
                if line.startswith("Forwarding from"):
                    self._open.set()
                elif not line.startswith("Handling connection") and line.strip():
                    self._words = line.strip()


def require_free(port: int, variable: str) -> None:
    """Look for another program on a port.

    Raises:
        ClusterError: there is one.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ClusterError(
                f"port {port} of this machine cannot be used ({error.strerror}); end what listens there, or set "
                f"{variable} to another"
            ) from None


def require_allowed(cluster: Cluster, port: int) -> None:
    """Ask the settings whether MLflow takes requests for a port of this machine: it compares names with ports.

    Raises:
        ClusterError: it would answer 403, or there are no settings.
    """
    settings = json.loads(cluster.run("get", "configmap", "settings", "--output", "json"))["data"]
    hosts = str(settings.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")).split(",")
    if not any(fnmatch.fnmatchcase(f"127.0.0.1:{port}", host) for host in hosts):
        raise ClusterError(
            f"MLflow would refuse 127.0.0.1:{port}; unset {MLFLOW.variable}, or add it to MLFLOW_SERVER_ALLOWED_HOSTS "
            "in the overlay's settings.env and run make kubernetes-up",
            REFUSED,
        )


def forward(cluster: Cluster, command: Sequence[str], environment: Mapping[str, str], *, store: bool = False) -> int:
    """Run a command with the ways open and return its exit code; 128 and the signal's number when one ended it.

    Args:
        cluster: where they lead.
        command: what is run.
        environment: with ports of this machine that are not the usual ones.
        store: open one to the S3 store, too, where it is in the cluster; S3_ENDPOINT_URL is then its end here.

    Raises:
        ClusterError: a port is taken, or a way cannot be opened; the command was ended.
    """
    ways = [MLFLOW, SERVING]
    if store and cluster.run("get", "service", STORE.service, "--ignore-not-found"):
        ways.append(STORE)
    ports = {way: way.local(environment) for way in ways}
    told = dict(environment)
    if STORE in ports:
        told["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{ports[STORE]}"
    for way, port in ports.items():
        require_free(port, way.variable)
    require_allowed(cluster, ports[MLFLOW])
    got: list[int] = []  # signals; noted first and passed on later, so that none finds us between two steps
    with ExitStack() as ended:
        for name in PASSED_ON:
            ended.callback(signal.signal, name, signal.signal(name, lambda number, _: got.append(number)))
        forwards = [Forward(cluster, way, port) for way, port in ports.items()]
        for one in forwards:
            ended.callback(one.close)
            one.open()
        while not all(one.tend() for one in forwards):
            if got:
                return 128 + got[0]
            time.sleep(PAUSE)
        child = _start(command, told)
        ended.callback(_end, child)
        while True:
            try:
                code = child.wait(PAUSE)
            except subprocess.TimeoutExpired:
                _pass_on(got, child)
                for one in forwards:
                    one.tend()
            else:
                return code if code >= 0 else 128 - code


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=environment)  # noqa: S603  # the command that was asked for
    except OSError as error:
        raise ClusterError(f"{command[0]!r} cannot be started ({error.strerror}); correct COMMAND", NOT_FOUND) from None


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


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code, or that of what went wrong before or beside it."""
    parser = argparse.ArgumentParser(
        prog="deploy.kubernetes.forward", description="Run a command with MLflow and the service at 127.0.0.1."
    )
    parser.add_argument("--namespace", default=NAMESPACE)
    parser.add_argument("--store", action="store_true", help="the S3 store, too, where it is in the cluster")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    given = parser.parse_args(arguments)
    try:
        return forward(Cluster(given.namespace), given.command, os.environ, store=given.store)
    except ClusterError as error:
        print(f"kubernetes-forward: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

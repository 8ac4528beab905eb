"""Python code that runs in a fork of a process that has imported Airflow: fork_server.py, once for a session."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class Forked:
    """What `python -c CODE ARGUMENTS` would be, with its output in files; `pid` is also its session's."""

    def __init__(
        self, server: socket.socket, folder: Path, code: Sequence[str], variables: Mapping[str, str], *, merged: bool
    ) -> None:
        """Start `code`, which its arguments follow; `merged` puts what it says on standard error into `output`, too."""
        self.output = folder / "output"
        self.errors = self.output if merged else folder / "errors"
        request = {
            "code": code[0],
            "arguments": code[1:],
            "variables": dict(variables),
            "output": str(self.output),
            "errors": str(self.errors),
        }
        self._server = server
        self._answers = server.makefile()
        server.sendall(f"{json.dumps(request)}\n".encode())
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code."""
        self._server.settimeout(timeout)
        with self._server, self._answers:
            return int(self._answers.readline())

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)


class Forks:
    """Starts each `Forked`; the processes that tests are spread over share one server, by the folder `shared`."""

    def __init__(self, shared: Path, folder: Path, variables: Mapping[str, str]) -> None:
        self._shared = shared
        self._folder = folder
        self.variables = dict(variables)
        self._server: subprocess.Popen[str] | None = None
        self._made = 0

    def start(
        self, code: str, *arguments: str, variables: Mapping[str, str] | None = None, merged: bool = False
    ) -> Forked:
        """Start code in a fork."""
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        chosen = self.variables if variables is None else variables
        return Forked(self._connected(), folder, [code, *arguments], chosen, merged=merged)

    def run(
        self, code: str, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run code in a fork to its end."""
        process = self.start(code, *arguments, variables=variables)
        returned = process.wait(600)
        return subprocess.CompletedProcess(code, returned, process.output.read_text(), process.errors.read_text())

    def close(self) -> None:
        """End the server, if it is ours; another session's process that needs one starts its own."""
        if self._server is not None:
            assert self._server.stdin is not None
            with self._address() as address:
                address.unlink(missing_ok=True)
            self._server.stdin.close()
            self._server.wait(600)

    @contextlib.contextmanager
    def _address(self) -> Iterator[Path]:
        """The server's address, while no other process starts, ends or connects to a server."""
        with (self._shared / "airflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._shared / "airflow.sock"

    def _connected(self) -> socket.socket:
        with self._address() as address:
            connection = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(address))
                return connection
            address.unlink(missing_ok=True)
            script = str(Path(__file__).with_name("fork_server.py"))
            self._server = subprocess.Popen(
                [sys.executable, script, str(address)],
                env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert self._server.stdout is not None
            assert self._server.stdout.readline() == "ready\n", "the error is in the test's standard error"
            connection.connect(str(address))
            return connection

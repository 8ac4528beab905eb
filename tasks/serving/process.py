"""The service as a process: start it detached, find it by its pid file, end it.

Standard library only: the deploy stage uses this in an image that has neither BentoML nor torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tasks.serving"
STOP_SECONDS = 20.0


def pid_file(home: Path) -> Path:
    """Return the file that holds the process ID of the service whose state lives under `home`."""
    return home / "serving.pid"


def log_file(home: Path) -> Path:
    """Return the file that a detached service writes to."""
    return home / "serving.log"


@contextmanager
def recorded(home: Path) -> Iterator[None]:
    """Record this process in the pid file while it serves."""
    home.mkdir(parents=True, exist_ok=True)
    pid_file(home).write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        pid_file(home).unlink(missing_ok=True)


def find(home: Path) -> int | None:
    """Return the process ID of the service that the pid file names; None when it no longer runs.

    Its command line tells whether the ID belongs to another program by now.
    """
    try:
        pid = int(pid_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid != os.getpid() and _is_service(pid) else None


def start(home: Path, host: str, port: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the service so that it outlives this process.

    It has a session of its own, so signals to the stage's process group do not reach it, and none of the caller's
    files, so a reader of the caller's output does not wait for the service.

    Args:
        home: folder of the log, and of the pid file that the service writes itself.
        host: address to listen on.
        port: port to listen on.
        environment: variables in addition to those of this process.
    """
    home.mkdir(parents=True, exist_ok=True)
    with log_file(home).open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # our own module; host and port were checked
            [sys.executable, "-m", MODULE, "--host", host, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def stop(home: Path) -> int | None:
    """End the service of the pid file, and wait until it has ended.

    Returns:
        Its process ID, or None when no such service runs.

    Raises:
        UnavailableError: it does not end, even by SIGKILL.
    """
    pid = find(home)
    if pid is not None:
        _end(pid)
    pid_file(home).unlink(missing_ok=True)
    return pid


def last_lines(home: Path, count: int = 5) -> str:
    """Return the end of the service's log as one line, to explain why it ended."""
    try:
        lines = log_file(home).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "no log"
    return " | ".join(line.strip() for line in lines[-count:] if line.strip()) or "empty log"


def command_line(pid: int) -> str:
    """Return the command of a process, arguments separated by spaces; empty when it has ended."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    # macOS has no /proc.
    shown = subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True)  # noqa: S603
    return shown.stdout.strip()


def _is_service(pid: int) -> bool:
    return f"-m {MODULE} " in f"{command_line(pid)} "


def _end(pid: int) -> None:
    """Ask the service to finish its requests and end; after `STOP_SECONDS` kill it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not _is_service(pid):  # also true for a zombie, which has no command line
                return
            time.sleep(0.05)
    raise UnavailableError(f"the service (pid {pid}) does not end; kill it by hand")

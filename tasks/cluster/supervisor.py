"""Ends what Ray leaves behind: `python supervisor.py LIFELINE FOLDER STAGE`.

LIFELINE is the read end of a pipe whose write end only the stage holds. However the stage ends, even by SIGKILL, the
operating system closes that end. This process then kills every process that has a file open in Ray's FOLDER, except
the STAGE itself, and deletes the folder. Ray itself leaves two of its agents running.

It imports nothing of the project: it is started as a file, in its own session, which the stage's signals do not reach.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT = 10.0  # seconds; a process that is starting may open its files later
PAUSE = 0.2
PROCESSES = Path("/proc")


def main(arguments: list[str]) -> int:
    """Wait for the end of the stage, then clean up."""
    lifeline, folder, stage = int(arguments[0]), Path(arguments[1]), int(arguments[2])
    os.read(lifeline, 1)  # nothing is ever written: this returns when the other end is closed
    deadline, quiet = time.monotonic() + TIMEOUT, 0
    while quiet < 2 and time.monotonic() < deadline:
        found = [process for process in users(folder) if process != stage]
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(PAUSE)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def users(folder: Path) -> list[int]:
    """Return the IDs of the processes that have a file open below `folder`."""
    if not (PROCESSES / "self" / "fd").is_dir():  # macOS
        command = ["lsof", "-t", "+D", str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no shell
        return [int(word) for word in told.stdout.split()]
    return [int(process.name) for process in PROCESSES.glob("[0-9]*") if _uses(process, str(folder.resolve()))]


def _uses(process: Path, folder: str) -> bool:
    with contextlib.suppress(OSError):  # it ended, or belongs to another user
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith(f"{folder}/"):
                    return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

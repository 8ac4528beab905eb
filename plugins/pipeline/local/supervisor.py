"""Runs a command that must not outlive its Airflow task: `python supervisor.py LIFELINE GRACE COMMAND...`.

LIFELINE is the read end of a pipe; only the task holds the write end. However the task ends, SIGKILL included, the
operating system closes that end. The supervisor notices and stops its whole process group: SIGTERM, GRACE seconds,
SIGKILL. It exits with the command's exit code; a signal N becomes 128 + N.

Standard library only: started as a file with `-I`, it is ready in about 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    lifeline, grace, *command = arguments
    # A handler, not SIG_IGN, which the command would inherit. The group is signalled as a whole; the supervisor
    # stays to report how the command ended.
    signal.signal(signal.SIGTERM, _stay)
    environment = {**os.environ, "PIPELINE_STAGE_GROUP": str(os.getpgid(0))}
    stage = subprocess.Popen(command, env=environment)  # noqa: S603  # the operator's own command line
    threading.Thread(target=_watch, args=(int(lifeline), float(grace)), daemon=True).start()
    code = stage.wait()
    return code if code >= 0 else 128 - code


def _watch(lifeline: int, grace: float) -> None:
    os.read(lifeline, 1)  # nothing is ever written: this returns when the other end is closed
    with contextlib.suppress(ProcessLookupError):
        os.killpg(0, signal.SIGTERM)
        time.sleep(grace)
        os.killpg(0, signal.SIGKILL)


def _stay(signum: int, frame: FrameType | None) -> None:
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

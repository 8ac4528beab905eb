"""A stage as a process of its own, whose output tests read while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from itertools import count

from tests.waiting import until


def read_to(line: str, stage: subprocess.Popen[str]) -> str:
    """Read the output up to a line in which this pattern is found; return it. Fail if the stage ends before."""
    output = ""
    assert stage.stdout is not None
    for text in stage.stdout:
        output += text
        if re.search(line, text):
            return output
    raise AssertionError(f"the stage ended without {line!r}:\n{output}")


def hold_back(stage: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for a condition, with the stage at work for a tenth of the time, so that it is not over before."""
    polls = count()

    def reached() -> bool:
        turn = next(polls) % 10
        if turn == 0:
            stage.send_signal(signal.SIGCONT)
        elif turn == 1:  # it has worked for the pause between two polls
            found = condition()
            stage.send_signal(signal.SIGSTOP)
            return found
        return False

    try:
        until(reached)
    finally:
        stage.send_signal(signal.SIGCONT)

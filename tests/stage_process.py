"""A stage as a process of its own, whose output tests read while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def read_to(line: str, stage: subprocess.Popen[str]) -> str:
    """Read the output up to a line in which this pattern is found; return it. Fail if the stage ends before."""
    output = ""
    assert stage.stdout is not None
    for text in stage.stdout:
        output += text
        if re.search(line, text):
            return output
    raise AssertionError(f"the stage ended without {line!r}:\n{output}")


@contextmanager
def stopped(stage: subprocess.Popen[str]) -> Iterator[None]:
    """Have the stage do nothing meanwhile: it is not over before what is waited for, however busy the machine is."""
    stage.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.send_signal(signal.SIGCONT)

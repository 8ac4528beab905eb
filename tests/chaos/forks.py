"""Runs work in forked processes: imports are already done, and side effects end with the process."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def in_child(work: Callable[[], T]) -> T:
    """Call `work` in a forked process, where it may use MLflow and torch, and return what it returns: plain values.

    Raises:
        RuntimeError: with the child's traceback.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer: tuple[bool, Any] = True, work()
        except BaseException:
            answer = False, traceback.format_exc()
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    worked, value = json.loads(data)
    if not worked:
        raise RuntimeError(value)
    return value  # type: ignore[no-any-return]


def wait(pid: int, deadline: float) -> int:
    """Wait for a child, killed at the deadline (`time.monotonic()`); return its exit code, negative for a signal."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)

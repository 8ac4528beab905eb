"""Delays SIGTERM, which cancels a task, until a group of writes is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_delayed() -> Iterator[None]:
    """Delay a SIGTERM that arrives during the block until its end, so that the block is done completely.

    For a few quick writes only: SIGKILL follows SIGTERM within seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    came: list[FrameType | None] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if came:
            signal.raise_signal(signal.SIGTERM)

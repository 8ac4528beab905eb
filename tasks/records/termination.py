"""SIGTERM, by which a task is cancelled, at a moment that leaves nothing half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Let a SIGTERM that comes inside take effect at the end: what is done inside is done as a whole.

    For a few quick writes only: whoever sends SIGTERM sends SIGKILL seconds later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return
    came: list[FrameType | None] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if came:
            signal.raise_signal(signal.SIGTERM)

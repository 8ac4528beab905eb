"""Waits for something that another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def until(condition: Callable[[], Value], seconds: float = 600, pause: float = 0.05) -> Value:
    """Poll a condition until it is true; return its value; fail after `seconds`. `pause` is the time between polls."""
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, f"it did not happen within {seconds:g} s"
        time.sleep(pause)
    return value

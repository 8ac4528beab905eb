"""Memory that several threads share: one that would take more than is left waits for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable

PAUSE_SECONDS = 0.1  # between two looks whether the one who waits still wants it


class Room:
    """A number of bytes to hand out. May be used from any thread."""

    def __init__(self, total: int) -> None:
        """Take how many bytes there are."""
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int, abandoned: Callable[[], bool]) -> bool:
        """Wait for `size` bytes, and take them; False if `abandoned` says meanwhile that nobody wants them any more.

        More than there are in all is handed out alone.
        """
        with self._changed:
            while self._taken and self._taken + size > self._total:
                if abandoned():
                    return False
                self._changed.wait(PAUSE_SECONDS)
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        """Hand back what was taken."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

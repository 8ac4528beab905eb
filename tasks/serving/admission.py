"""How many prediction requests are worked on at a time: beyond that, a quick no is better than a late answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.serving.refusal import Refusal

# Bounds what uploads keep in memory, and how long the last one waits: half a second or so for a small network on a
# core of its own.
REQUESTS = 64


class Admission:
    """Counts the requests under way, from the whole upload to the answer. Belongs to the event loop.

    A client that is slow to send takes no place: it costs a connection, until the service's time limit ends it.
    """

    def __init__(self, requests: int = REQUESTS) -> None:
        """Take how many there may be."""
        self._free = requests
        self._requests = requests

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place while a request is worked on.

        Raises:
            Refusal: 503 with Retry-After, when all are taken.
        """
        if not self._free:
            raise Refusal(503, f"{self._requests} requests are being worked on; try again in a second", retry_seconds=1)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

"""Limits how many prediction requests are in progress: beyond that, a quick 503 is better than a late answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.serving.http_errors import HttpError

# Bounds the memory that uploads take, and how long the last one waits: about half a second for a small network on a
# core of its own.
REQUESTS = 64


class Admission:
    """Counts the requests in progress, from the complete upload to the answer. Belongs to the event loop.

    A client that sends slowly takes no place, only a connection, until the service's time limit ends it.
    """

    def __init__(self, requests: int = REQUESTS) -> None:
        """Take the limit."""
        self._free = requests
        self._requests = requests

    def check(self) -> None:
        """Raise what `one` would raise now."""
        if not self._free:
            raise HttpError(503, f"{self._requests} requests are in progress; try again in a second", retry_seconds=1)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place while a request is worked on.

        Raises:
            HttpError: 503 with Retry-After, when all places are taken.
        """
        self.check()
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

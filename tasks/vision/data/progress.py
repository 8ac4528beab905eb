"""Progress of long work as log lines: count, rate, time left."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class Progress:
    """Counts finished items of `total` and logs a line every `interval` seconds, and one at the end."""

    def __init__(self, what: str, total: int, interval: float = 10.0) -> None:
        self.what, self.total, self.interval = what, total, interval
        self.done = 0
        self.started = self.reported = time.monotonic()

    def advance(self, count: int) -> None:
        """Add `count` finished items."""
        self.done += count
        now = time.monotonic()
        if now - self.reported < self.interval and self.done < self.total:
            return
        self.reported = now
        rate = self.done / max(now - self.started, 1e-9)
        left = max(0, self.total - self.done) / max(rate, 1e-9)
        log.info("%s: %d of %d, %.0f per second, %.0f s left", self.what, self.done, self.total, rate, left)

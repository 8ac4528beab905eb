"""Decides when a checkpoint is worth its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

TIME_SHARE = 0.05
"""Largest share of the training time that is spent on checkpoints; with short epochs some get none."""


class Cadence:
    """Tells when another checkpoint would stay within `TIME_SHARE`, going by the time that the last one took."""

    def __init__(self) -> None:
        """Start the clock; how long a checkpoint takes is not known yet."""
        self._cost = 0.0
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Tell whether to save a checkpoint now; the first one is always due."""
        return self._cost <= TIME_SHARE * (time.monotonic() - self._saved)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a checkpoint while it is saved."""
        started = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def restart(self) -> None:
        """Restart the clock for another training in the same process, whose checkpoints take about as long."""
        self._saved = time.monotonic()

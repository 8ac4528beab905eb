"""How often it pays to save the state of a training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

TIME_SHARE = 0.05
"""Largest share of the training time that is spent on checkpoints; with short epochs some get none."""


class Cadence:
    """Tells when another checkpoint would stay within `TIME_SHARE`, judged by what the last one cost."""

    def __init__(self) -> None:
        """Start counting now; what a checkpoint costs is not known yet."""
        self._cost = 0.0
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Tell whether a checkpoint pays now; the first one always does."""
        return self._cost <= TIME_SHARE * (time.monotonic() - self._saved)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a checkpoint while it is saved."""
        started = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def restart(self) -> None:
        """Begin another training in the same process, in which a checkpoint costs about the same."""
        self._saved = time.monotonic()

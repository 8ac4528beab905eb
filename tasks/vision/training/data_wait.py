"""How long training waits for its data.

On a CPU, and as long as images are read in this process, that is the time until the next batch is there: read, decoded,
augmented. On an NVIDIA GPU it is the time between the end of one step and the moment when the next batch is there, as
the GPU sees it: a batch that is read while the GPU still works on the one before costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class DataWait:
    """Adds up how long batches took to come."""

    def __init__(self, device: torch.device) -> None:
        """Start at 0, for a training on `device`."""
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # which the GPU has not reached yet

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each takes to come, without what the caller does in between."""
        while True:
            begin, started = self._event(), time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            end = self._event()
            if begin is None or end is None:
                self._seconds += time.perf_counter() - started
            else:
                self._open.append((begin, end))
                self._collect()
            yield batch

    def share(self, seconds: float) -> float:
        """Return the share of `seconds` that was spent waiting, 0 to 1; on a GPU, after its work is done."""
        self._collect()
        return min(1.0, self._seconds / seconds)

    def _event(self) -> torch.cuda.Event | None:
        """Return a mark in the GPU's queue of work, which has the time when the GPU reaches it."""
        if not self._cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _collect(self) -> None:
        """Add what the GPU has reached by now."""
        while self._open and self._open[0][1].query():  # type: ignore[no-untyped-call]
            begin, end = self._open.popleft()
            self._seconds += begin.elapsed_time(end) / 1000

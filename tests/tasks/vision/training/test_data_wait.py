"""The time until a batch is there, on a CPU and, with marks that stand in for those of a GPU, as a GPU sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tasks.vision.training.data_wait import Batch, DataWait

BATCH = (torch.zeros(1), torch.zeros(1))


def test_only_the_time_until_a_batch_is_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tasks.vision.training.data_wait.time.perf_counter", lambda: now[0])

    def slow() -> Iterator[Batch]:
        for _ in range(4):
            now[0] += 2
            yield BATCH

    waited = DataWait(torch.device("cpu"))
    for _ in waited.over(slow()):
        now[0] += 8
    assert waited.share(40.0) == 0.2
    assert waited.share(4.0) == 1.0  # clocks may differ by a little


class Mark:
    """A mark in the queue of a GPU, which needs a second for the step before each batch."""

    work = 0.0  # of steps in its queue, in milliseconds
    host = 0.0  # the time in this process
    reached = 0.0  # how far the GPU got

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Mark.work = max(Mark.work, Mark.host)
        self.time = Mark.work

    def query(self) -> bool:
        return self.time <= Mark.reached

    def elapsed_time(self, end: Mark) -> float:
        return end.time - self.time


def test_a_batch_that_comes_while_a_gpu_still_works_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Mark)

    def batches() -> Iterator[Batch]:
        for milliseconds in (400, 900, 1500):  # to read; a step takes 1000
            Mark.host += milliseconds
            yield BATCH

    waited = DataWait(torch.device("cuda"))
    for _ in waited.over(batches()):
        Mark.work += 1000
    assert waited.share(1.0) == 0.0  # the GPU has reached nothing yet
    Mark.reached = Mark.work
    assert waited.share(10.0) == pytest.approx((0.4 + 0 + 0.4) / 10)

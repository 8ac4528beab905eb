from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from tasks.errors import SettingsError
from tasks.vision.data import bronze, silver, splits
from tasks.vision.data.array_source import ArraySource
from tasks.vision.data.decoder_process import HERE_BYTES, MOST_PROCESSES, PROCESS_BYTES
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.memory_budget import DEFAULT_BYTES, IMAGE_BYTES, WAITING_BYTES, MemoryBudget
from tasks.vision.data.records import Content, Entry

GIB = 2**30
FEW = [Entry(f"train/ant/{number:026}.png", "train", "ant") for number in range(100)]


class Many:
    """As many entries as are asked for, of one that is in memory."""

    def __init__(self, count: int, entry: Entry) -> None:
        self.count, self.entry = count, entry

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        return (self.entry for _ in range(self.count))

    def __contains__(self, entry: object) -> bool:
        return entry == self.entry


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_default_leaves_usual_machines_what_they_need(threads: int) -> None:
    budget = MemoryBudget.of(DEFAULT_BYTES, FEW, threads)
    assert (budget.waiting_bytes, budget.here_bytes) == (WAITING_BYTES, HERE_BYTES)
    assert budget.processes == min(threads, 2 if threads == 8 else MOST_PROCESSES)


@pytest.mark.parametrize("total", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 4, 16, 64, 200])
def test_all_parts_together_stay_in_the_budget_however_many_threads_decode(total: int, threads: int) -> None:
    budget = MemoryBudget.of(total * GIB, FEW, threads)
    parts = budget.waiting_bytes + threads * budget.here_bytes + budget.processes * PROCESS_BYTES
    assert parts < total * GIB
    assert 1 <= budget.processes <= min(threads, MOST_PROCESSES)


def test_more_images_than_memory_are_refused_with_the_setting_that_takes_them() -> None:
    entry = Entry("train/ant/1.png", "train", "ant", ("left", "1999"))
    many = Many(200_000, entry)
    each = IMAGE_BYTES + sum(map(sys.getsizeof, (entry.name, *entry.metadata)))
    most = 200_000 * each + 100 * 2**20
    with pytest.raises(SettingsError, match=r"too little for 200,000 images .* PIPELINE_PREPARE_MEMORY_GIB to 1 "):
        MemoryBudget.of(most, many, 2)
    assert MemoryBudget.of(GIB, many, 2).processes == 1


def test_threads_that_have_others_decode_fit_too_or_are_refused() -> None:
    budget = MemoryBudget.of(2 * GIB, FEW, 100, 12 * 2**20)
    assert (budget.waiting_bytes, budget.processes) == (WAITING_BYTES, 0)
    with pytest.raises(SettingsError, match=r"too little for 100 images and 200 threads: .*_MEMORY_GIB to 3 or more"):
        MemoryBudget.of(2 * GIB, FEW, 200, 12 * 2**20)


def test_a_source_with_too_many_images_is_refused_before_any_is_read() -> None:
    class Unread(ArraySource):
        def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
            raise AssertionError("read")

    source = Unread("dots", np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1]), ["train"] * 4, ("ant", "bee"))
    with pytest.raises(SettingsError, match="too little for 4 images"):
        bronze.read(source, Shaping("dots", 1, 8, 0.2, 0.2, 0), most_memory=2**20)


def test_what_stays_in_memory_of_an_image_is_less_than_the_budget_counts_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the listing to gold, SQLite's caches not counted: they have a size of their own."""
    monkeypatch.setattr(splits, "AT_ONCE", 2**12)  # statistics take 32 MB more for a moment, whatever the data
    count = 20_000
    pixels = np.arange(count * 8, dtype=np.uint64).view(np.uint8).reshape(count, 8, 8)
    source = partial(ArraySource, "dots", pixels, np.arange(count) % 2, ["train"] * count, ("ant", "bee"))
    tracemalloc.start()
    try:
        made = source()
        records = bronze.read(made, Shaping("dots", 1, 8, 0.2, 0.2, 0), workers=1)
        read = tracemalloc.get_traced_memory()[1]
        kept, _ = silver.clean(records)
        gold = splits.split(kept, made.classes, Shaping("dots", 1, 8, 0.2, 0.2, 0), "f" * 64, has_test=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(read / count, peak / count)
    assert sum(map(len, gold.splits.values())) == count
    assert peak / count < IMAGE_BYTES + sys.getsizeof("train/ant/00000")

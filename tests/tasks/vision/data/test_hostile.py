"""Archives made to cost more than they look: each ends with a reason or a right result, whatever it costs to say so.

`python -m tests.tasks.vision.data.hostile.lane 0 500` prints what each of them takes.
"""

from __future__ import annotations

import pytest

from tasks.errors import DataError
from tests.tasks.vision.data.hostile import lane, series
from tests.tasks.vision.data.hostile.material import MIB

MOST_PEAK = 512 * MIB


def judged(numbers: list[int]) -> None:
    """Inspect these archives of the series and say all that is wrong."""
    wrong = []
    for number, outcome in lane.run_apart(numbers):
        refused = outcome.code == DataError.exit_code and outcome.words.startswith("DataError: ")
        named = f"archive-{number}" in outcome.words
        accepted = outcome.code == 0 and outcome.words.startswith("a run would use ")
        if not (accepted or (refused and named)) or outcome.peak > MOST_PEAK:
            wrong.append(f"{number} ({series.kind_of(number)}): {outcome}")
    assert wrong == []


def test_the_series_is_the_same_for_the_same_seed_and_has_every_kind() -> None:
    assert series.hostile(16) == series.hostile(16)
    assert len({series.kind_of(number) for number in range(series.LENGTH)}) == len(series.KINDS) > 40


def test_one_of_every_kind_ends_well_and_cheaply() -> None:
    quick = [number for number in range(len(series.KINDS)) if series.kind_of(number) not in SLOW]
    judged(quick)


# Over a second each; in the whole series.
SLOW = ("tars.link_folders", "tars.many_empty", "zips.directory_of_millions", "sheets.one_image_many_labels")


@pytest.mark.long
@pytest.mark.parametrize("start", range(0, series.LENGTH, 50))
def test_the_whole_series_ends_well_and_cheaply(start: int) -> None:
    judged(list(range(start, start + 50)))

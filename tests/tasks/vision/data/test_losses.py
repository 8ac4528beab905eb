from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.vision.data import losses
from tasks.vision.data.records import Entry, Listing, Reason, Removal


def removed(reason: Reason, count: int, detail: str = "") -> list[Removal]:
    return [Removal(f"{reason.name}{index}", "", "", reason, detail) for index in range(count)]


def listing(images: int, *removals: Removal) -> Listing:
    entries = {str(index): Entry(str(index), "train", "a") for index in range(images)}
    return Listing(images + len(removals), entries, removals, ("a", "b"))


@pytest.mark.parametrize(
    "reason",
    [reason for reason in Reason if reason not in losses.NOT_COUNTED],
)
def test_a_quarter_of_the_files_is_the_most_for_whatever_reason(reason: Reason) -> None:
    few, many = removed(reason, 25), removed(reason, 26)
    losses.require_few(listing(75, *few), few, 0.25, "pets")
    losses.require_few(listing(100), few, 0.25, "pets")
    with pytest.raises(DataError, match=f"26 of 100 files of pets would be left .* limit of 25%: 26 {reason}"):
        losses.require_few(listing(74, *many), many, 0.25, "pets")


def test_reasons_add_up() -> None:
    outside, unreadable = removed(Reason.OUTSIDE, 1), removed(Reason.UNREADABLE, 3, "cut short")
    with pytest.raises(DataError) as error:
        losses.require_few(listing(9, *outside), [*outside, *unreadable], 0.25, "pets")
    assert (
        "3 unreadable ('UNREADABLE0': cut short, 'UNREADABLE1': cut short, …), 1 outside the layout ('OUTSIDE0');"
        in str(error.value)
    )
    assert "raise max_left_out" in str(error.value)
    losses.require_few(listing(9, *outside), [*outside, *unreadable], 0.5, "pets")


@pytest.mark.parametrize("reason", losses.NOT_COUNTED)
def test_what_never_was_part_of_the_data_set_does_not_count(reason: Reason) -> None:
    others = removed(reason, 1000)
    losses.require_few(listing(3, *others), others, 0.25, "pets")
    two = [*others, *removed(Reason.OUTSIDE, 2)]
    with pytest.raises(DataError, match="2 of 5 files"):
        losses.require_few(listing(3, *two), two, 0.25, "pets")


def test_all_of_them_are_written(tmp_path: Path) -> None:
    losses.write(removed(Reason.LINK, 2, "why, so"), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "name,split,class,reason,detail",
        'LINK0,,,link that leads to no file of the source,"why, so"',
        'LINK1,,,link that leads to no file of the source,"why, so"',
    ]


def test_gold_of_a_run_that_allowed_more_is_recognised() -> None:
    copies, outside = removed(Reason.COPY, 100), removed(Reason.OUTSIDE, 5)
    found = listing(95, *copies, *outside)
    assert not losses.exceed(found, 75, 0.25)
    assert losses.exceed(found, 74, 0.25)

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pytest

from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.record_table import RecordTable
from tasks.vision.data.records import Entry, Reason, Record
from tasks.vision.data.silver import clean

FILE = PixelFile((1, 8, 8))


def record(name: str, value: int | None, fault: Reason | None = None) -> Record:
    """An image of one colour; `value` None for one without pixels."""
    split, label, _ = name.split("/")
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    if value is None:
        return Record(Entry(name, split, label), sha256, fault=fault, detail="because")
    pixels = FILE.add(np.full((1, 8, 8), value, np.uint8))
    return Record(
        Entry(name, split, label), sha256, pixels=pixels, pixels_sha256=bytes([value]), fault=fault, detail="because"
    )


def tabled(records: Iterable[Record]) -> RecordTable:
    table = RecordTable(FILE)
    table.extend(records)
    return table


def outcome(*records: Record) -> tuple[list[str], dict[str, tuple[Reason, str]]]:
    kept, removals = clean(tabled(records))
    return [r.entry.name for r in kept], {r.name: (r.reason, r.detail) for r in removals}


def test_different_images_all_stay() -> None:
    assert outcome(record("train/a/1", 1), record("train/b/2", 2), record("test/a/3", 3))[1] == {}


def test_of_copies_the_first_by_name_stays() -> None:
    kept, removed = outcome(record("train/a/1", 1), record("train/a/2", 1), record("train/a/3", 1))
    assert kept == ["train/a/1"]
    assert removed == {f"train/a/{i}": (Reason.DUPLICATE, "of train/a/1") for i in (2, 3)}


def test_a_copy_of_a_test_image_leaves_train_and_stays_in_test() -> None:
    kept, removed = outcome(
        record("test/a/9", 1), record("test/a/8", 2), record("train/a/1", 1), record("train/a/2", 1)
    )
    assert kept == ["test/a/8", "test/a/9"]
    assert removed == {f"train/a/{i}": (Reason.LEAK, "as test/a/9") for i in (1, 2)}


def test_copies_within_test_are_removed_too() -> None:
    kept, removed = outcome(record("test/a/1", 1), record("test/a/2", 1))
    assert (kept, removed) == (["test/a/1"], {"test/a/2": (Reason.DUPLICATE, "of test/a/1")})


@pytest.mark.parametrize("other", ["train/b/1", "test/b/1"])
def test_an_image_of_two_classes_is_removed_from_both(other: str) -> None:
    kept, removed = outcome(record("train/a/1", 1), record("train/a/2", 2), record(other, 1))
    assert kept == ["train/a/2"]
    assert {name: reason for name, (reason, _) in removed.items()} == dict.fromkeys(
        ["train/a/1", other], Reason.CONFLICT
    )
    assert "classes a, b" in removed[other][1]
    assert "train/a/1" in removed[other][1]


def test_faults_are_handed_on_with_their_detail() -> None:
    _, removed = outcome(
        *(record(f"train/a/{i}", i) for i in range(8)),
        record("train/b/1", None, Reason.UNREADABLE),
        record("train/b/2", None, Reason.WRONG_SIZE),
    )
    assert removed == {"train/b/1": (Reason.UNREADABLE, "because"), "train/b/2": (Reason.WRONG_SIZE, "because")}


def test_rows_in_are_rows_out_and_removals() -> None:
    records = [record(f"train/{label}/{i}", i % 7) for label in "ab" for i in range(20)]
    kept, removals = clean(tabled([*records, record("train/c/1", 100)]))
    assert len(kept) + len(removals) == 41


def test_the_order_of_reading_does_not_matter() -> None:
    records = [record("train/a/1", 1), record("train/b/1", 1), record("test/a/3", 3), record("train/a/3", 3)]
    assert outcome(*records) == outcome(*records[::-1])


def test_of_copies_the_one_in_test_stays_else_the_one_in_validation() -> None:
    kept, removed = outcome(
        record("train/a/1", 1),
        record("validation/a/1", 1),
        record("test/a/1", 1),
        record("train/a/2", 2),
        record("validation/a/2", 2),
        record("validation/a/3", 2),
    )
    assert kept == ["test/a/1", "validation/a/2"]
    assert removed == {
        "train/a/1": (Reason.LEAK, "as test/a/1"),
        "validation/a/1": (Reason.LEAK, "as test/a/1"),
        "train/a/2": (Reason.VALIDATION_LEAK, "as validation/a/2"),
        "validation/a/3": (Reason.DUPLICATE, "of validation/a/2"),
    }

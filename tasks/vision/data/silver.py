"""The silver layer: the images fit to train on, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.vision.data.record_table import Numbered, RecordTable, SelectedRecords
from tasks.vision.data.records import Reason, Record, Removal

PRIORITY = ("test", "validation", "train")  # which copy of an image stays
LEAKS = {"test": Reason.LEAK, "validation": Reason.VALIDATION_LEAK}


def clean(records: RecordTable) -> tuple[SelectedRecords, list[Removal]]:
    """Separate the records that are fit to train on from those that are not.

    Two images are the same when the model would see the same pixels: files that differ only in metadata or
    compression count as copies too. Removed are, in this order: unreadable and wrongly sized images; all copies of
    an image that has two classes (one of them is wrong, but not known which); copies in train and validation of a test
    image, and in train of a validation image; copies within a split, except the first by name. How many may go is
    for `losses` to say.

    Raises:
        UnavailableError: the disk is full.
    """
    removals: list[Removal] = []
    kept = np.ones(len(records), np.bool_)
    for number, record in records.faulty():
        kept[number] = False
        removals.append(_removal(record, record.fault or Reason.UNREADABLE, record.detail))
    for same in records.copies():
        for number, removal in _removed(same):
            kept[number] = False
            removals.append(removal)
    order = records.order
    return records.of(order[kept[order]]), sorted(removals, key=lambda removal: removal.name)


def _removed(same: Sequence[Numbered]) -> list[tuple[int, Removal]]:
    """Decide which of the records with the same pixels do not stay."""
    labels = sorted({record.entry.label for _, record in same})
    if len(labels) > 1:
        names = ", ".join(record.entry.name for _, record in same[:5])
        detail = f"classes {', '.join(labels)}: {names}"
        return [(number, _removal(record, Reason.CONFLICT, detail)) for number, record in same]
    stays, first = min(same, key=lambda item: PRIORITY.index(item[1].entry.split))
    removed = []
    for number, record in same:
        if number == stays:
            continue
        if record.entry.split == first.entry.split:
            removal = _removal(record, Reason.DUPLICATE, f"of {first.entry.name}")
        else:
            removal = _removal(record, LEAKS[first.entry.split], f"as {first.entry.name}")
        removed.append((number, removal))
    return removed


def _removal(record: Record, reason: Reason, detail: str) -> Removal:
    return Removal(record.entry.name, record.entry.split, record.entry.label, reason, detail)

"""The silver layer: the images fit to train on, and why the others are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tasks.vision.data.records import Reason, Record, Removal

PRIORITY = ("test", "validation", "train")  # which copy of an image stays
LEAKS = {"test": Reason.LEAK, "validation": Reason.VALIDATION_LEAK}


def clean(records: Sequence[Record]) -> tuple[list[Record], list[Removal]]:
    """Separate the records that are fit to train on from those that are not.

    Two images are the same when the model would see the same pixels: files that differ only in metadata or
    compression count as copies too. Removed are, in this order: unreadable and wrongly sized images; all copies of
    an image that has two classes (one of them is wrong, but not known which); copies in train and validation of a test
    image, and in train of a validation image; copies within a split, except the first by name. How many may go is
    for `losses` to say.
    """
    removals: list[Removal] = []
    copies: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        if record.pixels is None or record.fault is not None:
            removals.append(_removal(record, record.fault or Reason.UNREADABLE, record.detail))
        else:
            copies[record.pixels_sha256].append(record)
    kept: list[Record] = []
    for same in copies.values():
        chosen, removed = _choose(same)
        kept += chosen
        removals += removed
    return sorted(kept, key=lambda record: record.entry.name), sorted(removals, key=lambda removal: removal.name)


def _choose(same: list[Record]) -> tuple[list[Record], list[Removal]]:
    """Decide which of the records with the same pixels stay."""
    labels = sorted({record.entry.label for record in same})
    if len(labels) > 1:
        names = ", ".join(record.entry.name for record in same[:5])
        return [], [_removal(record, Reason.CONFLICT, f"classes {', '.join(labels)}: {names}") for record in same]
    first = min(same, key=lambda record: PRIORITY.index(record.entry.split))
    removals = []
    for record in same:
        if record is first:
            continue
        if record.entry.split == first.entry.split:
            removals.append(_removal(record, Reason.DUPLICATE, f"of {first.entry.name}"))
        else:
            removals.append(_removal(record, LEAKS[first.entry.split], f"as {first.entry.name}"))
    return [first], removals


def _removal(record: Record, reason: Reason, detail: str) -> Removal:
    return Removal(record.entry.name, record.entry.split, record.entry.label, reason, detail)

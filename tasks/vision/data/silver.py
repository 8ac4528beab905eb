"""The silver layer: the images fit to train on, and why the others are not."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from tasks.errors import DataError
from tasks.vision.data.records import Reason, Record, Removal

MAX_UNREADABLE = 0.25


def clean(records: Sequence[Record]) -> tuple[list[Record], list[Removal]]:
    """Separate the records that are fit to train on from those that are not.

    Two images are the same when the model would see the same pixels: files that differ only in metadata or
    compression count as copies too. Removed are, in this order: unreadable and wrongly sized images; all copies of
    an image that has two classes (one of them is wrong, but not known which); copies in train of a test image;
    copies within a split, except the first by name.

    Raises:
        DataError: more than `MAX_UNREADABLE` of the images are unreadable, or no image is left.
    """
    removals: list[Removal] = []
    copies: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        if record.pixels is None or record.fault is not None:
            removals.append(_removal(record, record.fault or Reason.UNREADABLE, record.detail))
        else:
            copies[hashlib.sha256(record.pixels.tobytes()).digest()].append(record)
    unreadable = [removal for removal in removals if removal.reason is Reason.UNREADABLE]
    if len(unreadable) > MAX_UNREADABLE * len(records):
        first = unreadable[0]
        raise DataError(
            f"{len(unreadable)} of {len(records)} images are unreadable, over the limit of {MAX_UNREADABLE:.0%}; "
            f"repair the source (the first: {first.name!r}: {first.detail})"
        )
    kept: list[Record] = []
    for same in copies.values():
        chosen, removed = _choose(same)
        kept += chosen
        removals += removed
    if not kept:
        raise DataError(f"none of {len(records)} images can be used ({_tally(removals)}); repair the source")
    return sorted(kept, key=lambda record: record.entry.name), sorted(removals, key=lambda removal: removal.name)


def _choose(same: list[Record]) -> tuple[list[Record], list[Removal]]:
    """Decide which of the records with the same pixels stay."""
    labels = sorted({record.entry.label for record in same})
    if len(labels) > 1:
        names = ", ".join(record.entry.name for record in same[:5])
        return [], [_removal(record, Reason.CONFLICT, f"classes {', '.join(labels)}: {names}") for record in same]
    tests = [record for record in same if record.entry.split == "test"]
    trains = [record for record in same if record.entry.split == "train"]
    first, *others = tests or trains
    removals = [_removal(record, Reason.DUPLICATE, f"of {first.entry.name}") for record in others]
    if tests:
        removals += [_removal(record, Reason.LEAK, f"as {first.entry.name}") for record in trains]
    return [first], removals


def _removal(record: Record, reason: Reason, detail: str) -> Removal:
    return Removal(record.entry.name, record.entry.split, record.entry.label, reason, detail)


def _tally(removals: Sequence[Removal]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason.value for r in removals).items())

"""Stops a run that would leave out many files, for whatever reason: nothing disappears quietly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import DataError
from tasks.vision.data.records import Listing, Reason, Removal

# Everything that is listed counts, duplicates and leaks too: a data set of which half is copies needs a look. Not
# counted are files that were never part of the data set, which the log mentions before any image is read: a second copy
# of the whole data set (Kaggle's chest_xray), and held-out images without labels (Kaggle's test/, tiny-imagenet). Nor
# those that a person asked to leave out.
NOT_COUNTED = (Reason.COPY, Reason.UNLABELLED, Reason.CORRECTED)
EXAMPLES = 2


def require_few(listing: Listing, removals: Sequence[Removal], limit: float, where: str) -> None:
    """Check how many of the files are left out.

    Args:
        listing: the files of the source.
        removals: those that are left out.
        limit: the largest share of the files, 0..1.
        where: what the user called the source, for messages.

    Raises:
        DataError: there are more, counted by reason and with the first examples.
    """
    counted = [removal for removal in removals if removal.reason not in NOT_COUNTED]
    files = _files(listing)
    if len(counted) <= limit * files:
        return
    raise DataError(
        f"{len(counted)} of {files} files of {where} would be left out, over the limit of {limit:.0%}: "
        f"{tally(counted)}; repair, convert or move them away, or raise max_left_out "
        "(`make inspect SOURCE=...` lists them all)"
    )


def exceed(listing: Listing, kept: int, limit: float) -> bool:
    """Tell whether more than this share of the files of a source is left out where `kept` images are used."""
    files = _files(listing)
    return files - kept > limit * files


def _files(listing: Listing) -> int:
    """Count the files that can be lost; a Parquet file counts by its rows."""
    return len(listing.entries) + sum(removal.reason not in NOT_COUNTED for removal in listing.removals)


def tally(removals: Sequence[Removal]) -> str:
    """Count removals by reason, most first, with the first examples of each."""
    parts = []
    for reason, count in Counter(removal.reason for removal in removals).most_common():
        shown = [removal for removal in removals if removal.reason is reason][:EXAMPLES]
        names = ", ".join(f"{removal.name!r}{f': {removal.detail}' if removal.detail else ''}" for removal in shown)
        parts.append(f"{count} {reason.value} ({names}{', …' if count > len(shown) else ''})")
    return ", ".join(parts)


def write(removals: Sequence[Removal], path: Path) -> None:
    """Write what is left out as a CSV file, one line each."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "split", "class", "reason", "detail"])
        for removal in removals:
            writer.writerow([removal.name, removal.split, removal.label, removal.reason.value, removal.detail])

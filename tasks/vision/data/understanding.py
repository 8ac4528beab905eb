"""Says in three lines what was understood of a source, before any image is read."""

from __future__ import annotations

from collections import Counter

from tasks.vision.data.records import Listing

SHOWN = 5


def lines(listing: Listing) -> tuple[str, str, str]:
    """Return layout, splits and classes in words."""
    counts = Counter(entry.split for entry in listing.entries.values())
    given = [f"{counts[split]:,} {split}" for split in ("train", "validation", "test") if counts[split]]
    missing = [split for split in ("validation", "test") if not counts[split]]
    splits = ", ".join(given) + (f"; {' and '.join(missing)} will be split off train" if missing else "")
    names = ", ".join(repr(name) for name in listing.classes[:SHOWN]) + (", …" if len(listing.classes) > SHOWN else "")
    out = f"; not used: {len(listing.removals):,} of {listing.files:,} files" if listing.removals else ""
    return (
        f"layout: {listing.layout or 'images with labels'}{out}",
        "; ".join([f"splits: {splits}", *listing.notes]),
        f"classes: {len(listing.classes):,} ({names})",
    )

"""The layout of Parquet files: every row is an image, and the name of the file says its split."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.errors import DataError
from tasks.vision.data.arrangement import HELD_OUT, Arrangement
from tasks.vision.data.contents import Contents
from tasks.vision.data.names import split_of_file
from tasks.vision.data.records import Entry, Reason


def row_key(name: str, row: int) -> str:
    """Return the key in `Listing.entries` of one row of a file."""
    return f"{name}\0{row}"


def arrange(contents: Contents) -> Arrangement:
    """Take every row of every Parquet file as an image.

    Raises:
        DataError: a file cannot be read, or a row for training has no label.
    """
    made = Arrangement("Parquet files with the images in them")
    for name, path in sorted(contents.visible.items(), key=lambda item: item[1]):
        if name not in contents.parquets:
            made.leave_out(path, Reason.OUTSIDE)
            continue
        columns = contents.parquets[name]
        if isinstance(columns, DataError):
            raise columns
        split = split_of_file(path) or "train"
        if split in HELD_OUT and not any(columns.labels):
            made.leave_out(path, Reason.UNLABELLED, f"{len(columns.labels)} rows", split=split)
            made.notes.append(f"{path} has no labels and is not used ({len(columns.labels)} rows)")
            continue
        _require_labels(columns.labels, f"{contents.where}: {path}")
        made.tables[name] = columns.image
        for row, label in enumerate(columns.labels):
            made.add(row_key(name, row), Entry(f"{path}/{row:07}", split, str(label)))
    made.layout += f" (column {', '.join(sorted({repr(column) for column in made.tables.values()}))})"
    return made


def _require_labels(labels: Sequence[str | None], place: str) -> None:
    missing = [row for row, label in enumerate(labels) if not label]
    if missing:
        raise DataError(
            f"{place}, row {missing[0]}: no label, as in {len(missing)} of {len(labels)} rows; "
            "fill them in or remove the rows"
        )

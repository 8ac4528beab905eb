"""Reads `metadata.csv` or `metadata.jsonl`: what is known of the images besides their class.

The file follows Hugging Face's ImageFolder convention: the column `file_name` is the path of an image, relative to the
folder that the file lies in; every other column is text about that image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tasks.contract.gate_policy import CLASS
from tasks.errors import DataError
from tasks.vision.data import tables
from tasks.vision.data.names import split_of_folder
from tasks.vision.data.records import Listing
from tasks.vision.data.tables import Row

NAMES = ("metadata.csv", "metadata.jsonl")
KEY = "file_name"


def is_place(inner: str) -> bool:
    """Tell whether a path from the top of the data set is one where metadata are looked for: there or in a split."""
    *folders, name = inner.split("/")
    return name in NAMES and (not folders or (len(folders) == 1 and split_of_folder(folders[0]) is not None))


def attach(listing: Listing, sheets: Mapping[str, bytes | DataError], where: str) -> Listing:
    """Add to the images of a listing the values of their rows; "" where an image has no row.

    Args:
        listing: the files of the source.
        sheets: the content of each metadata file (see `tables.read`), by its path from the top of the data set.
        where: what the user called the source, for messages.

    Raises:
        DataError: a file is not UTF-8 or not CSV, has no column `file_name`, a column without a name, twice or named
            `class`, a row of another length, or a row for a file that is missing or already has one.
    """
    if not sheets:
        return listing
    known = {entry.name for entry in listing.entries.values()} | {removal.name for removal in listing.removals}
    columns: dict[str, None] = {}
    rows: dict[str, Row] = {}
    for path in sorted(sheets, key=_order):
        table = tables.read(path, sheets[path], where)
        _check_header(table.columns, table.place)
        columns |= dict.fromkeys(name for name in table.columns if name != KEY)
        for row in table.rows:
            image = row.values.get(KEY, "")
            if not image:
                raise DataError(f"{row.place}: {KEY} is empty; fill it in or remove the line")
            image = (PurePosixPath(path).parent / image).as_posix()
            if image not in known:
                raise DataError(
                    f"{row.place}: {KEY} {image!r} (from the top of the data set) is not a file of it; "
                    f"correct the path, relative to the folder of {PurePosixPath(path).name}, or remove the line"
                )
            if image in rows:
                raise DataError(f"{row.place}: {image!r} has another row in {rows[image].place}; remove one")
            rows[image] = row
    return with_values(listing, tuple(columns), {image: row.values for image, row in rows.items()})


def with_values(listing: Listing, columns: Sequence[str], values: Mapping[str, Mapping[str, str]]) -> Listing:
    """Give every image its value in each of `columns`, from `values` by the image's name."""
    nothing: dict[str, str] = {}
    entries = {
        source_name: replace(
            entry, metadata=tuple(values.get(entry.name, nothing).get(column, "") for column in columns)
        )
        for source_name, entry in listing.entries.items()
    }
    return replace(listing, entries=entries, columns=tuple(columns))


def _order(path: str) -> tuple[int, int, str]:
    """The top folder first, then train, validation and test."""
    folder = path.rpartition("/")[0]
    splits = (None, "train", "validation", "test")
    return bool(folder), splits.index(split_of_folder(folder)), path


def _check_header(names: Sequence[str], place: str) -> None:
    if KEY not in names:
        raise DataError(f"{place}: no column {KEY!r} among {', '.join(map(repr, names)) or 'none'}; add it")
    if "" in names:
        raise DataError(f"{place}: column {names.index('') + 1} has no name; name it or remove it")
    if CLASS in names:
        raise DataError(f"{place}: a column {CLASS!r} would be mistaken for the images' classes; give it another name")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{place}: the column {twice[0]!r} appears twice; remove one")

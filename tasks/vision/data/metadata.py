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
from tasks.vision.data.sheet_values import SheetValues
from tasks.vision.data.tables import Place

NAMES = ("metadata.csv", "metadata.jsonl")
KEY = "file_name"


def is_place(inner: str) -> bool:
    """Tell whether a path from the top of the data set is one where metadata are looked for: there or in a split."""
    *folders, name = inner.split("/")
    return name in NAMES and (not folders or (len(folders) == 1 and split_of_folder(folders[0]) is not None))


def attach(listing: Listing, sheets: Mapping[str, bytes | DataError], where: str, source_bytes: int) -> Listing:
    """Add to the images of a listing the values of their rows; "" where an image has no row.

    Args:
        listing: the files of the source.
        sheets: the content of each metadata file (see `tables.read`), by its path from the top of the data set.
        where: what the user called the source, for messages.
        source_bytes: how many bytes all its files have.

    Raises:
        DataError: a file is not UTF-8 or not CSV, has no column `file_name`, a column without a name, twice or named
            `class`, a row of another length, or a row for a file that is missing or already has one; or all of them
            take too much memory.
    """
    if not sheets:
        return listing
    known = {entry.name for entry in listing.entries.values()} | {removal.name for removal in listing.removals}
    values = SheetValues(where, source_bytes)
    places: dict[str, Place] = {}
    for path in sorted(sheets, key=_order):
        table = tables.read(path, sheets[path], where)
        _check_header(table.columns, table.place)
        columns = tuple(name for name in table.columns if name != KEY)
        values.add_columns(columns, table.place)
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
            if image in places:
                raise DataError(f"{row.place}: {image!r} has another row in {places[image]}; remove one")
            places[image] = row.place
            values.keep(image, row, columns)
    return with_values(listing, values.columns, values.by_image())


def with_values(listing: Listing, columns: Sequence[str], values: Mapping[str, tuple[str, ...]]) -> Listing:
    """Give every image its value in each of `columns`, from `values` by the image's name."""
    nothing = ("",) * len(columns)
    entries = {
        source_name: replace(entry, metadata=values.get(entry.name, nothing))
        for source_name, entry in listing.entries.items()
    }
    return replace(listing, entries=entries, columns=tuple(columns))


def _order(path: str) -> tuple[int, int, str]:
    """The top folder first, then train, validation and test."""
    folder = path.rpartition("/")[0]
    splits = (None, "train", "validation", "test")
    return bool(folder), splits.index(split_of_folder(folder)), path


def _check_header(names: Sequence[str], place: Place) -> None:
    if KEY not in names:
        raise DataError(f"{place}: no column {KEY!r} among {', '.join(map(repr, names)) or 'none'}; add it")
    if "" in names:
        raise DataError(f"{place}: column {names.index('') + 1} has no name; name it or remove it")
    if CLASS in names:
        raise DataError(f"{place}: a column {CLASS!r} would be mistaken for the images' classes; give it another name")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{place}: the column {twice[0]!r} appears twice; remove one")

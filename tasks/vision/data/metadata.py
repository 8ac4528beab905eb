"""Reads `metadata.csv`: what is known of the images besides their class.

The file follows Hugging Face's ImageFolder convention: the column `file_name` is the path of an image, relative to the
folder that the file lies in; every other column is text about that image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tasks.contract.gate_policy import CLASS
from tasks.errors import DataError
from tasks.vision.data.records import Listing

NAME = "metadata.csv"
PLACES = (NAME, f"train/{NAME}", f"test/{NAME}")
KEY = "file_name"


@dataclass(frozen=True)
class _Row:
    place: str  # file and line, for messages
    image: str
    values: dict[str, str]


def attach(listing: Listing, sheets: Mapping[str, bytes], where: str) -> Listing:
    """Add to the images of a listing the values of their rows; "" where an image has no row.

    Args:
        listing: the files of the source.
        sheets: the content of each metadata file, by its path in the source, one of `PLACES`.
        where: what the user called the source, for messages.

    Raises:
        DataError: a file is not UTF-8 or not CSV, has no column `file_name`, a column without a name, twice or named
            `class`, a row of another length, or a row for a file that is missing or already has one.
    """
    if not sheets:
        return listing
    known = {entry.name for entry in listing.entries.values()} | {removal.name for removal in listing.removals}
    columns: dict[str, None] = {}
    rows: dict[str, _Row] = {}
    for path in sorted(sheets, key=PLACES.index):
        names, found = _read(path, sheets[path], where)
        columns |= dict.fromkeys(names)
        for row in found:
            if row.image not in known:
                raise DataError(
                    f"{row.place}: {KEY} {row.image!r} (from the top of the data set) is not a file of it; "
                    f"correct the path, relative to the folder of {NAME}, or remove the line"
                )
            if row.image in rows:
                raise DataError(f"{row.place}: {row.image!r} has another row in {rows[row.image].place}; remove one")
            rows[row.image] = row
    nothing: dict[str, str] = {}
    entries = {}
    for source_name, entry in listing.entries.items():
        values = rows[entry.name].values if entry.name in rows else nothing
        entries[source_name] = replace(entry, metadata=tuple(values.get(name, "") for name in columns))
    return replace(listing, entries=entries, columns=tuple(columns))


def _read(path: str, data: bytes, where: str) -> tuple[list[str], Iterator[_Row]]:
    """Return the columns of one file, except `file_name`, and its rows."""
    try:
        text = data.decode("utf-8-sig")  # Excel writes a byte order mark
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}: {path}, line {line}: not UTF-8; save the file as UTF-8") from error
    lines = _lines(text, f"{where}: {path}")
    place, header = next(lines, (f"{where}: {path}, line 1", []))
    names = [cell.strip() for cell in header]
    _check_header(names, place)
    return [name for name in names if name != KEY], _rows(lines, names, PurePosixPath(path).parent)


def _lines(text: str, file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield file and line (the last of a row that has several), and the cells, of every line that has any."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"{file}, line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not valid CSV ({error}); save it as CSV again") from error


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


def _rows(lines: Iterator[tuple[str, list[str]]], names: Sequence[str], folder: PurePosixPath) -> Iterator[_Row]:
    for place, cells in lines:
        if len(cells) != len(names):
            raise DataError(
                f"{place}: {len(cells)} cells, but {len(names)} columns; "
                "make the numbers equal (quote cells that contain commas)"
            )
        values = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
        image = values.pop(KEY)
        if not image:
            raise DataError(f"{place}: {KEY} is empty; fill it in or remove the line")
        yield _Row(place, (folder / image).as_posix(), values)

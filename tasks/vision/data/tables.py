"""Reads tables about images: CSV, TSV and JSON Lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import DataError
from tasks.vision.data.names import normal, suffix

# A table may come from anyone, and each image keeps its value in every column.
MAX_ROWS = 2_000_000
MAX_COLUMNS = 1000
MAX_ROW = 2**20  # characters of one row: a file may be a single line, of which a list would be made
_STEP = 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands, for messages."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return file and line."""
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Row:
    """One row, and where its last line is. Texts are in Unicode's form NFC, without blanks around them."""

    place: Place
    values: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with its column names; `place` is where they stand."""

    place: Place
    columns: tuple[str, ...]
    rows: Iterator[Row]


def read(path: str, data: bytes | DataError, where: str) -> Table:
    """Read the columns of a table; its rows are read one by one.

    Args:
        path: its place in the source; the suffix says what it is.
        data: its content, or why there is none.
        where: what the user called the source, for messages.

    Raises:
        DataError: it is not UTF-8, or not CSV, TSV or JSON Lines, or has over `MAX_COLUMNS` columns, `MAX_ROWS` rows or
            `MAX_ROW` characters in a row. The rows raise it too.
    """
    if isinstance(data, DataError):
        raise DataError(f"{where}: {path}: {data}") from data
    file = f"{where}: {path}"
    _require_utf8(data, file)
    return _json_lines(data, file) if suffix(path) == ".jsonl" else _csv(data, file, suffix(path))


def _require_utf8(data: bytes, file: str) -> None:
    """Check the encoding piece by piece: a text can take four times the memory of its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _STEP):
        before = start - len(decoder.getstate()[0])
        try:
            decoder.decode(data[start : start + _STEP], start + _STEP >= len(data))
        except UnicodeDecodeError as error:
            place = Place(file, data.count(b"\n", 0, before + error.start) + 1)
            raise DataError(f"{place}: not UTF-8; save the file as UTF-8") from error


class _Lines:
    """The lines of a table, which is decoded as it is read; `row_done` is called after each row."""

    def __init__(self, data: bytes, file: str, newline: str) -> None:
        # Excel writes a byte order mark.
        self._text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=newline)
        self._file, self._count, self._left = file, 0, MAX_ROW

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        if not line:
            raise StopIteration
        self._count += 1
        self._left -= len(line)
        if self._left < 0:
            raise DataError(
                f"{Place(self._file, self._count)}: over {MAX_ROW} characters in one row; "
                "end lines with a line feed, and close quotes"
            )
        return line

    def row_done(self) -> None:
        self._left = MAX_ROW


def _csv(data: bytes, file: str, kind: str) -> Table:
    # Excel writes what the country uses: semicolons where the comma separates decimals.
    delimiter = "\t" if kind == ".tsv" else max(",;\t|", key=_first_line(data, file).count)
    lines = _cells(data, file, delimiter)
    place, header = next(lines, (Place(file, 1), []))
    names = tuple(map(_plain_cell, header))
    _check_columns(names, place)

    def rows() -> Iterator[Row]:
        for place, cells in lines:
            if len(cells) != len(names):
                raise DataError(
                    f"{place}: {len(cells)} cells, but {len(names)} columns; "
                    "make the numbers equal (quote cells that contain commas)"
                )
            yield Row(place, dict(zip(names, map(_plain_cell, cells), strict=True)))

    return Table(place, names, rows())


def _first_line(data: bytes, file: str) -> str:
    lines = _Lines(data, file, "")
    for line in lines:
        if line.strip():
            return line.lstrip()
        lines.row_done()
    return ""


def _plain_cell(cell: str) -> str:
    cell = cell.strip()
    return cell if cell.isascii() else normal(cell)


def _cells(data: bytes, file: str, delimiter: str) -> Iterator[tuple[Place, list[str]]]:
    """Yield the place and the cells of every row that has any."""
    lines = _Lines(data, file, "")
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        for count, cells in enumerate(reader):
            lines.row_done()
            _check_rows(count, file)  # the first are the names of the columns
            if cells:
                yield Place(file, reader.line_num), cells
    except csv.Error as error:
        place = Place(file, reader.line_num)
        raise DataError(f"{place}: not valid CSV ({error}); save it as CSV again") from error


def _json_lines(data: bytes, file: str) -> Table:
    """The columns are those of all lines together, so the lines are read twice instead of kept."""
    first = Place(file, 1)
    names: dict[str, None] = {}
    for count, row in enumerate(_json_rows(data, file), 1):
        first = first if names else row.place
        names |= dict.fromkeys(row.values)
        _check_columns(names, row.place)
        _check_rows(count, file)
    return Table(first, tuple(names), _json_rows(data, file))


def _json_rows(data: bytes, file: str) -> Iterator[Row]:
    """Yield the object of every line; a value that is not text is written as JSON."""
    lines = _Lines(data, file, "\n")
    for number, line in enumerate(lines, 1):
        lines.row_done()
        if not line.strip():
            continue
        place = Place(file, number)
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise DataError(f"{place}: not a JSON object; write one object on each line")
            row = {_clean(name): _cell(value) for name, value in values.items()}
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not valid JSON ({error}); write one object on each line") from error
        yield Row(place, row)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _clean(text: str) -> str:
    """Return the text in Unicode's form NFC. UnicodeEncodeError, a ValueError: JSON can hold half a character."""
    text.encode()
    return normal(text).strip()


def _check_columns(names: Collection[str], place: Place) -> None:
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{place}: over {MAX_COLUMNS} columns; keep those that describe the images")


def _check_rows(count: int, file: str) -> None:
    if count > MAX_ROWS:
        raise DataError(f"{file} has over {MAX_ROWS} rows; split the data set")


def pick(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first of the `known` names that a column has; case, blanks, `-` and `_` make no difference."""
    plain = {_plain(column): column for column in reversed(columns)}
    return next((plain[_plain(name)] for name in known if _plain(name) in plain), None)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in " _-")

"""Reads tables about images: CSV, TSV and JSON Lines."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Row:
    """One row; `place` is file and line, for messages. Texts are in Unicode's form NFC, without blanks around them."""

    place: str
    values: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with its column names; `place` is where they stand, for messages."""

    place: str
    columns: tuple[str, ...]
    rows: Iterator[Row]


def read(path: str, data: bytes | DataError, where: str) -> Table:
    """Read the columns of a table; its rows are read one by one.

    Args:
        path: its place in the source; the suffix says what it is.
        data: its content, or why there is none.
        where: what the user called the source, for messages.

    Raises:
        DataError: it is not UTF-8, or not CSV, TSV or JSON Lines, or has over `MAX_COLUMNS` columns or `MAX_ROWS` rows.
            The rows raise it too.
    """
    if isinstance(data, DataError):
        raise DataError(f"{where}: {path}: {data}") from data
    try:
        text = normal(data.decode("utf-8-sig"))  # Excel writes a byte order mark
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}: {path}, line {line}: not UTF-8; save the file as UTF-8") from error
    file = f"{where}: {path}"
    return _json_lines(text, file) if suffix(path) == ".jsonl" else _csv(text, file, suffix(path))


def _csv(text: str, file: str, kind: str) -> Table:
    first = text.lstrip().partition("\n")[0]
    # Excel writes what the country uses: semicolons where the comma separates decimals.
    delimiter = "\t" if kind == ".tsv" else max(",;\t|", key=first.count)
    lines = _lines(text, file, delimiter)
    place, header = next(lines, (f"{file}, line 1", []))
    names = tuple(cell.strip() for cell in header)
    _check_columns(names, place)

    def rows() -> Iterator[Row]:
        for place, cells in lines:
            if len(cells) != len(names):
                raise DataError(
                    f"{place}: {len(cells)} cells, but {len(names)} columns; "
                    "make the numbers equal (quote cells that contain commas)"
                )
            yield Row(place, {name: cell.strip() for name, cell in zip(names, cells, strict=True)})

    return Table(place, names, rows())


def _lines(text: str, file: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield file and line (the last of a row that has several), and the cells, of every line that has any."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for count, cells in enumerate(reader):
            _check_rows(count, file)  # the first are the names of the columns
            if cells:
                yield f"{file}, line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not valid CSV ({error}); save it as CSV again") from error


def _json_lines(text: str, file: str) -> Table:
    """The columns are those of all lines together, so the lines are read twice instead of kept."""
    first = f"{file}, line 1"
    names: dict[str, None] = {}
    for count, row in enumerate(_json_rows(text, file), 1):
        first = first if names else row.place
        names |= dict.fromkeys(row.values)
        _check_columns(names, row.place)
        _check_rows(count, file)
    return Table(first, tuple(names), _json_rows(text, file))


def _json_rows(text: str, file: str) -> Iterator[Row]:
    """Yield the object of every line; a value that is not text is written as JSON."""
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
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


def _check_columns(names: Collection[str], place: str) -> None:
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

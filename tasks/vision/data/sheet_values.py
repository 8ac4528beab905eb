"""What the tables of a source say of its images, with a limit for all tables together.

A table of 30 kB in an archive may unpack to 60 MB of commas, and each comma to a value that is kept for an image.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from tasks.errors import DataError
from tasks.vision.data.tables import MAX_COLUMNS, Place, Row

MAX_VALUE_BYTES = 128 * 2**20  # of memory; more where the files of the source have more bytes than this
_ROW_BYTES, _TEXT_BYTES, _CELL_BYTES = 250, 100, 8  # of memory, for a row, a text besides itself, and a cell


class SheetValues:
    """A value for each image in each column, and equal texts only once."""

    def __init__(self, where: str, source_bytes: int) -> None:
        """Take what the user called the source, and how many bytes all its files have."""
        self._where, self._most = where, max(MAX_VALUE_BYTES, source_bytes)
        self._columns: dict[str, None] = {}
        self._rows: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}  # columns and values, by image
        self._texts: dict[str, str] = {}
        self._text_bytes = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all tables together."""
        return tuple(self._columns)

    def add_columns(self, names: Iterable[str], place: Place) -> None:
        """Take the columns of one more table.

        Raises:
            DataError: together there are over `MAX_COLUMNS`, or their values take too much memory.
        """
        self._columns |= dict.fromkeys(names)
        if len(self._columns) > MAX_COLUMNS:
            raise DataError(f"{place}: over {MAX_COLUMNS} columns in all tables together; keep those that are needed")
        self._require_room(place)

    def share(self, text: str, place: Place) -> str:
        """Return an equal text that is kept already, or keep this one; errors as of `keep`."""
        kept = self._texts.get(text)
        if kept is None:
            kept = self._texts[text] = text
            self._text_bytes += sys.getsizeof(text) + _TEXT_BYTES
            self._require_room(place)
        return kept

    def keep(self, image: str, row: Row, columns: tuple[str, ...]) -> None:
        """Keep the values of an image in `columns`, instead of those that it had.

        Raises:
            DataError: the values of all images take too much memory.
        """
        self._rows[image] = (columns, tuple(self.share(row.values.get(name, ""), row.place) for name in columns))
        self._require_room(row.place)

    def by_image(self) -> dict[str, tuple[str, ...]]:
        """Return the values in the order of `columns`; "" where a table has no such column."""
        whole = self.columns
        return {image: _in_order(whole, *row) for image, row in self._rows.items()}

    def _require_room(self, place: Place) -> None:
        cells = len(self._rows) * len(self._columns)
        if self._text_bytes + len(self._rows) * _ROW_BYTES + cells * _CELL_BYTES > self._most:
            raise DataError(
                f"{place}: with it, the tables of {self._where} take over {self._most // 2**20} MiB of memory; "
                "remove columns that are not needed"
            )


def _in_order(whole: Sequence[str], columns: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    if columns == whole:
        return values
    known = dict(zip(columns, values, strict=True))
    return tuple(known.get(name, "") for name in whole)

"""What was read of each image, on disk: records in the order of names, those of the same pixels, those with a fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.disk_database import DiskDatabase
from tasks.vision.data.pixel_file import FiledImage, PixelFile
from tasks.vision.data.records import Entry, Reason, Record

CACHE_BYTES = 32 * 2**20  # of the table that stay in memory

Numbered = tuple[int, Record]
"""A record with its number, which counts from 0 in the order in which records were added."""


class RecordTable:
    """Takes records in any order, and gives them back in that of names.

    In memory are the entries, which the listing of the source holds anyway, and the order. Not for several threads.
    """

    def __init__(self, file: PixelFile, cache_bytes: int = CACHE_BYTES) -> None:
        """Begin without any.

        Args:
            file: where the pixels of all images are.
            cache_bytes: of the table that stay in memory.
        """
        self._file = file
        self._entries: list[Entry] = []
        self._order: NDArray[np.int64] | None = None
        self._database = DiskDatabase(cache_bytes)
        self._database.execute(
            "CREATE TABLE records (number INTEGER PRIMARY KEY, name BLOB, sha256 BLOB, size INTEGER, width INTEGER, "
            "height INTEGER, position INTEGER, pixels_sha256 BLOB, fault TEXT, detail TEXT)"
        )
        self._database.execute(
            "CREATE TEMP VIEW usable AS SELECT * FROM records WHERE position IS NOT NULL AND fault IS NULL"
        )

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Record]:
        """Yield all records in the order of their names, and of what was read where names are equal."""
        return iter(self.of(self.order))

    @property
    def order(self) -> NDArray[np.int64]:
        """The numbers of all records [N], in the order of their names."""
        if self._order is None:
            rows = self._database.execute("SELECT number FROM records ORDER BY name, sha256, number")
            self._order = np.fromiter((number for (number,) in rows), np.int64, len(self))
        return self._order

    def extend(self, records: Iterable[Record]) -> None:
        """Add records.

        Raises:
            UnavailableError: the disk is full.
        """
        self._order = None
        self._database.insert("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(self._row, records))

    def of(self, numbers: NDArray[np.int64]) -> SelectedRecords:
        """Return the records with these numbers [N], in their order."""
        return SelectedRecords(self, numbers)

    def record(self, number: int) -> Record:
        """Return one record."""
        return self._record(self._database.execute("SELECT * FROM records WHERE number = ?", [number]).fetchone())

    def faulty(self) -> Iterator[Numbered]:
        """Yield the records that have a fault or no pixels."""
        for row in self._database.execute("SELECT * FROM records WHERE position IS NULL OR fault IS NOT NULL"):
            yield row[0], self._record(row)

    def copies(self) -> Iterator[list[Numbered]]:
        """Yield the other records with the same pixels, two or more at a time, in the order of names.

        Raises:
            UnavailableError: the disk is full.
        """
        self._database.execute(
            "CREATE INDEX IF NOT EXISTS copies ON records (pixels_sha256) WHERE position IS NOT NULL AND fault IS NULL"
        )
        rows = self._database.execute(
            "SELECT * FROM usable WHERE pixels_sha256 IN "
            "(SELECT pixels_sha256 FROM usable GROUP BY pixels_sha256 HAVING COUNT(*) > 1) "
            "ORDER BY pixels_sha256, number"
        )
        for _, same in groupby(((row[0], self._record(row)) for row in rows), lambda item: item[1].pixels_sha256):
            yield sorted(same, key=lambda item: (item[1].entry.name, item[1].sha256))

    def _row(self, record: Record) -> tuple[Any, ...]:
        self._entries.append(record.entry)
        return (
            len(self._entries) - 1,
            record.entry.name.encode("utf-8", "surrogatepass"),  # as bytes, names are in the order of their characters
            bytes.fromhex(record.sha256),
            record.size,
            record.width,
            record.height,
            None if record.pixels is None else record.pixels.position,
            record.pixels_sha256,
            record.fault,
            record.detail,
        )

    def _record(self, row: tuple[Any, ...]) -> Record:
        number, _, sha256, size, width, height, position, pixels_sha256, fault, detail = row
        return Record(
            self._entries[number],
            sha256.hex(),
            size,
            width,
            height,
            None if position is None else FiledImage(self._file, position),
            None if fault is None else Reason(fault),
            detail,
            pixels_sha256,
        )


class SelectedRecords:
    """Some records of a table, in an order; read one after another."""

    def __init__(self, table: RecordTable, numbers: NDArray[np.int64]) -> None:
        """Take the table and the numbers [N]."""
        self._table, self._numbers = table, numbers

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Record]:
        """Yield them."""
        for number in self._numbers:
            yield self._table.record(int(number))

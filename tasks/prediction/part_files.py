"""The files of one part: the predictions, and the files that could not be decoded. Both are tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.prediction.answers import Answer

PREDICTIONS, FAILED = "predictions", "failed"  # folders of `out`
ROW_GROUP = 4096  # rows that are in memory until they are written


@dataclass(frozen=True)
class Columns:
    """What the tables say: the model's classes, in the order of the probabilities, and its version."""

    classes: tuple[str, ...]
    version: int
    output_format: str


class _Table(Protocol):
    def write(self, answers: Sequence[Answer]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is left to the file."""


class PartFiles:
    """Writes one part into a folder; a table without rows has no file."""

    def __init__(self, folder: Path, number: int, columns: Columns) -> None:
        """Take an empty folder, the part's number and what its tables say."""
        self.counts = {PREDICTIONS: 0, FAILED: 0}
        self._folder = folder
        self._file = f"part-{number:05}.{columns.output_format}"
        self._columns = columns
        self._tables: dict[str, _Table] = {}
        self._waiting: dict[str, list[Answer]] = {PREDICTIONS: [], FAILED: []}

    def add(self, answers: Iterable[Answer]) -> None:
        """Append what came of some files."""
        for answer in answers:
            table = FAILED if answer.probabilities is None else PREDICTIONS
            self.counts[table] += 1
            self._waiting[table].append(answer)
            if len(self._waiting[table]) >= ROW_GROUP:
                self._write(table)

    def close(self) -> list[str]:
        """Finish the files and return their names, relative to the folder."""
        for table, waiting in self._waiting.items():
            if waiting:
                self._write(table)
        for written in self._tables.values():
            written.close()
        return [f"{table}/{self._file}" for table in (PREDICTIONS, FAILED) if table in self._tables]

    def _write(self, table: str) -> None:
        if table not in self._tables:
            path = self._folder / table / self._file
            path.parent.mkdir(exist_ok=True)
            make = _Parquet if self._columns.output_format == "parquet" else _Csv
            self._tables[table] = make(path, self._columns, failed=table == FAILED)
        self._tables[table].write(self._waiting[table])
        self._waiting[table] = []


class _Parquet:
    """file, label, probability, probabilities (a list), version; or file, reason, version. Zstandard inside."""

    def __init__(self, path: Path, columns: Columns, *, failed: bool) -> None:
        import pyarrow as pa  # a third of a second, and CSV needs none
        import pyarrow.parquet as pq

        self._columns, self._failed = columns, failed
        fields: list[Any] = [("file", pa.string())]
        if failed:
            fields += [("reason", pa.string())]
        else:
            listed = pa.list_(pa.float32(), len(columns.classes))
            fields += [("label", pa.string()), ("probability", pa.float32()), ("probabilities", listed)]
        about = {"classes": json.dumps(columns.classes, ensure_ascii=False)}
        self._schema = pa.schema([*fields, ("version", pa.int32())], metadata=about)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, answers: Sequence[Answer]) -> None:
        import pyarrow as pa

        columns: list[Any] = [[answer.name for answer in answers]]
        if self._failed:
            columns += [[answer.reason for answer in answers]]
        else:
            rows = np.stack([answer.probabilities for answer in answers if answer.probabilities is not None])
            best = rows.argmax(1)
            listed = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
            columns += [[self._columns.classes[index] for index in best], rows[np.arange(len(rows)), best], listed]
        columns += [[self._columns.version] * len(answers)]
        arrays = [
            one if isinstance(one, pa.Array) else pa.array(one, known.type)
            for one, known in zip(columns, self._schema, strict=True)
        ]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._file.close()


class _Csv:
    """The same columns; in place of the list a column `probability CLASS` for each class."""

    def __init__(self, path: Path, columns: Columns, *, failed: bool) -> None:
        self._columns, self._failed = columns, failed
        self._file = path.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        each = [f"probability {name}" for name in columns.classes]
        self._csv.writerow(
            ["file", "reason", "version"] if failed else ["file", "label", "probability", *each, "version"]
        )

    def write(self, answers: Sequence[Answer]) -> None:
        classes, version = self._columns.classes, self._columns.version
        for answer in answers:
            if answer.probabilities is None:
                self._csv.writerow([answer.name, answer.reason, version])
                continue
            best = int(answer.probabilities.argmax())
            each = [f"{value:.9g}" for value in answer.probabilities.tolist()]  # nine digits are a float32, exactly
            self._csv.writerow([answer.name, classes[best], each[best], *each, version])

    def close(self) -> None:
        self._file.close()

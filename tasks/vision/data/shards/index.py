"""The index of a split: label, name, SHA-256 and metadata of every image, as columns of a safetensors file.

    labels int64 [N], sha256 uint8 [N, 32], names uint8 [bytes] with name_ends int64 [N], and for the metadata column
    number K of the description: column.K with column.K_ends

A reader takes the columns and rows that it wants. The library checks that no column reaches past the end of the file,
and nothing in it is executed. Written a row at a time: columns grow in temporary files, whatever the number of images.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tasks.vision.data.gold import damaged

DIGEST_BYTES = 32
SPOOLED_BYTES = 2**20  # of a column, before it becomes a file
ROW_BYTES = DIGEST_BYTES + 2 * 8  # at least: digest, label and where the name ends


class IndexWriter:
    """Writes an index row by row; a context manager, which removes its temporary files."""

    def __init__(self, columns: int) -> None:
        """Begin an index with so many metadata columns."""
        self._rows = 0
        texts = ["names", *(f"column.{number}" for number in range(columns))]
        self._texts = dict.fromkeys(texts, 0)  # bytes of each so far
        # Whole numbers first: in the file they begin at multiples of 8 bytes.
        self._names = ["labels", *map(_ends, texts), "sha256", *texts]
        self._parts = {
            name: cast(IO[bytes], tempfile.SpooledTemporaryFile(SPOOLED_BYTES))  # noqa: SIM115  # `__exit__` closes it
            for name in self._names
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts.values():
            part.close()

    def add(self, label: int, sha256: bytes, texts: Sequence[str]) -> None:
        """Add one image: its label, digest, and its name followed by the values of its metadata."""
        self._rows += 1
        self._parts["labels"].write(label.to_bytes(8, "little", signed=True))
        self._parts["sha256"].write(sha256)
        for name, text in zip(self._texts, texts, strict=True):
            encoded = text.encode("utf-8", "surrogatepass")
            self._texts[name] += len(encoded)
            self._parts[name].write(encoded)
            self._parts[_ends(name)].write(self._texts[name].to_bytes(8, "little"))

    def save(self, path: Path) -> None:
        """Write the file; the same rows make the same bytes."""
        header: dict[str, Any] = {}
        start = 0
        for name in self._names:
            size = self._parts[name].tell()
            numbers = name == "labels" or name.endswith("_ends")
            shape = [self._rows, DIGEST_BYTES] if name == "sha256" else [self._rows if numbers else size]
            header[name] = {"dtype": "I64" if numbers else "U8", "shape": shape, "data_offsets": [start, start + size]}
            start += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in self._names:
                self._parts[name].seek(0)
                shutil.copyfileobj(self._parts[name], file)


class Texts(Sequence[str]):
    """Texts in one block of bytes, taken out when asked for: a list of a hundred million would take 8 GB."""

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Take the bytes and where each text ends.

        Raises:
            ValueError: they do not fit together.
        """
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if starts[-1] != len(block) or (np.diff(starts) < 0).any():
            raise ValueError(f"texts end at other places than at 0 to {len(block)} in order")
        if (block[starts[:-1][np.diff(starts) > 0]] & 0xC0 == 0x80).any():
            raise ValueError("a text begins inside a character")
        bytes(block.data).decode("utf-8", "surrogatepass")
        self._block, self._starts = block, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(map(self._text, range(*index.indices(len(self)))))
        return self._text(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._text, range(len(self)))

    def _text(self, position: int) -> str:
        start, end = self._starts[position : position + 2]
        return bytes(self._block[start:end].data).decode("utf-8", "surrogatepass")


class Index:
    """The rows of a split, as `IndexWriter` wrote them."""

    def __init__(self, path: Path, rows: int, columns: Sequence[str], where: str) -> None:
        """Read an index of so many rows, with these metadata columns; `where` names it in errors.

        Raises:
            DataError: it is missing or damaged, or has another number of rows.
        """
        try:
            # Before anything is allocated: a description may claim any number of images.
            if path.stat().st_size < rows * ROW_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes are too few for {rows} images")
            with safe_open(path, framework="numpy") as file:
                self.labels: NDArray[np.int64] = file.get_tensor("labels")
                self.sha256: NDArray[np.uint8] = file.get_tensor("sha256")
                _require(self.labels, np.int64, (rows,))
                _require(self.sha256, np.uint8, (rows, DIGEST_BYTES))
                self.names = _texts(file, "names", rows)
                self.columns = {
                    name: tuple(_texts(file, f"column.{number}", rows)) for number, name in enumerate(columns)
                }
        except (OSError, ValueError, SafetensorError) as error:
            raise damaged(where, f"{path.name}: {type(error).__name__}: {error}") from error


def _texts(file: Any, name: str, rows: int) -> Texts:
    block, ends = file.get_tensor(name), file.get_tensor(_ends(name))
    _require(block, np.uint8, block.shape[:1])
    _require(ends, np.int64, (rows,))
    return Texts(block, ends)


def _ends(name: str) -> str:
    return "name_ends" if name == "names" else f"{name}_ends"


def _require(array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{array.dtype} {list(array.shape)} in place of {np.dtype(dtype)} {list(shape)}")

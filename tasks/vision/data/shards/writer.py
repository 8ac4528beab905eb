"""Writes gold, one image after another: memory does not grow with the number of images.

The same gold is always written as the same bytes, so that two runs can be compared by their files.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from tasks.files import sha256
from tasks.vision.data.gold import Gold, Images, check
from tasks.vision.data.shards.description import (
    DESCRIPTION,
    HEADER_BYTES,
    Description,
    Shard,
    SplitFiles,
    index_name,
    shard_name,
)
from tasks.vision.data.shards.index import IndexWriter

SHARD_BYTES = 128 * 2**20  # of a shard, at most, unless one image has more
READERS, READ_BYTES = 4, 4 * 2**20  # threads that read the images to be written, and of how many each at a time


class SplitWriter:
    """Writes one split; a context manager. Its number of images is known beforehand, so that names can tell it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        images: int,
        shape: tuple[int, int, int],
        *,
        columns: Sequence[str] = (),
        shard_bytes: int = SHARD_BYTES,
        closed: Callable[[Path], None] = lambda path: None,
    ) -> None:
        """Begin a split.

        Args:
            folder: where the files go; it exists.
            name: of the split.
            images: how many will be added.
            shape: (C, H, W) of each.
            columns: names of the metadata columns.
            shard_bytes: of pixels in a shard, at most.
            closed: called with each shard once it is complete; it may upload and remove it.
        """
        self._folder, self._name, self._shape, self._columns, self._closed = folder, name, shape, columns, closed
        per_shard = max(1, shard_bytes // math.prod(shape))
        self._sizes = [min(per_shard, images - start) for start in range(0, images, per_shard)]
        self._index = IndexWriter(len(columns))
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._shards: list[Shard] = []
        self._in_shard = 0
        self._per_class: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._index.__exit__(kind, error, trace)
        if self._file is not None:
            self._file.close()

    def add(self, pixels: NDArray[np.uint8], label: int, name: str, metadata: Sequence[str] = ()) -> None:
        """Add the next image, uint8 [C, H, W].

        Raises:
            ValueError: it has another type or shape, or is one too many.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self._shape:
            raise ValueError(f"{name}: {pixels.dtype} {list(pixels.shape)} in place of uint8 {list(self._shape)}")
        if len(self._shards) == len(self._sizes):
            raise ValueError(f"{name} is one image more than the {sum(self._sizes)} of {self._name}")
        if self._file is None:
            self._begin_shard()
        data = pixels.tobytes()
        self._write(data)
        self._index.add(label, hashlib.sha256(data).digest(), (name, *metadata))
        self._per_class[label] = self._per_class.get(label, 0) + 1
        self._in_shard += 1
        if self._in_shard == self._sizes[len(self._shards)]:
            self._end_shard()

    def finish(self, classes: int) -> SplitFiles:
        """Write the index; return what the description says of the split.

        Raises:
            ValueError: images are missing.
        """
        if len(self._shards) < len(self._sizes):
            raise ValueError(f"{self._name} has fewer than the {sum(self._sizes)} images it was to have")
        path = self._folder / index_name(self._name)
        self._index.save(path)
        return SplitFiles(
            per_class=tuple(self._per_class.get(label, 0) for label in range(classes)),
            columns=tuple(self._columns),
            index_sha256=sha256(path),
            shards=tuple(self._shards),
        )

    def _begin_shard(self) -> None:
        self._file = (self._folder / self._shard_name()).open("wb")
        self._digest = hashlib.sha256()
        self._write(npy_header((self._sizes[len(self._shards)], *self._shape)))

    def _end_shard(self) -> None:
        assert self._file is not None  # noqa: S101  # an image was added
        self._file.close()
        path = self._folder / self._shard_name()
        self._shards.append(Shard(images=self._in_shard, sha256=self._digest.hexdigest()))
        self._file, self._in_shard = None, 0
        self._closed(path)

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101  # callers opened it
        self._file.write(data)
        self._digest.update(data)

    def _shard_name(self) -> str:
        return shard_name(self._name, len(self._shards), len(self._sizes))


def _in_order(images: Images) -> Iterator[NDArray[np.uint8]]:
    """Yield each image [C, H, W]; the next ones are read meanwhile."""
    step = max(1, READ_BYTES // math.prod(images.shape[1:]))
    batches: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(READERS, "read") as pool:
        for start in range(0, len(images), step):
            batches.append(pool.submit(images.__getitem__, slice(start, start + step)))
            if len(batches) > READERS:
                yield from batches.popleft().result()
        while batches:
            yield from batches.popleft().result()


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return how a .npy file of uint8 begins, HEADER_BYTES long."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert header.tell() == HEADER_BYTES  # noqa: S101  # numpy fills it up to that for up to 60 digits
    return header.getvalue()


def save(
    gold: Gold, folder: Path, shard_bytes: int = SHARD_BYTES, closed: Callable[[Path], None] = lambda path: None
) -> None:
    """Write gold to `folder`, which is made when missing; the description last.

    Args:
        gold: its images may be anywhere; a few are in memory at a time.
        folder: where the files go.
        shard_bytes: of pixels in a shard, at most.
        closed: called with each shard once it is complete; it may upload and remove it.

    Raises:
        DataError: its parts do not fit together (see `gold.check`); nothing is written.
    """
    check(gold, f"gold for {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, split in gold.splits.items():
        columns = tuple(split.columns)
        with SplitWriter(
            folder, name, len(split), gold.shape, columns=columns, shard_bytes=shard_bytes, closed=closed
        ) as writer:
            rows = zip(_in_order(split.images), split.labels.tolist(), split.names, strict=True)
            for position, (pixels, label, image) in enumerate(rows):
                writer.add(pixels, label, image, [split.columns[column][position] for column in columns])
            splits[name] = writer.finish(len(gold.classes))
    description = Description(
        dataset=gold.dataset,
        fingerprint=gold.fingerprint,
        classes=gold.classes,
        mean=gold.mean,
        std=gold.std,
        shape=gold.shape,
        splits=splits,
    )
    (folder / DESCRIPTION).write_text(description.text(), encoding="utf-8")

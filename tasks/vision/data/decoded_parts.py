"""Decoded images of a pixel file in parts, which a retry takes instead of decoding them again.

A part is a .npy file of rows: the SHA-256 of the file that an image was decoded from, that of its pixels, and these.
Images are found by what they were decoded from, not by a name, so a part says nothing of where they came from.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.decoded_images import DecodedImages
from tasks.vision.data.pixel_file import FiledImage, PixelFile

FORMAT = 1  # of a part: raise it when `rows_of` changes
PART_BYTES = 128 * 2**20  # of the pixels in a part, and so what a retry may decode again; fewer images have no part
# Larger where there would be more parts: a store keeps a digest of each.
MOST_PARTS, LARGEST_PART_BYTES = 1024, 2**30
TRANSFERS = 4  # parts that are stored or fetched at the same time, each a file on the disk meanwhile
CHUNK_BYTES = 4 * 2**20  # of rows in memory, for each of them

log = logging.getLogger(__name__)


class PartStore(Protocol):
    """Where parts are between two tries."""

    def names(self) -> Sequence[str]:
        """Return the names of the parts that earlier tries stored."""
        ...

    def fetch(self, name: str, folder: Path) -> Path | None:
        """Put a part into the folder; None, with a line in the log, if it is not what was stored."""
        ...

    def store(self, part: Path, sha256: str) -> None:
        """Store a part; the file may be renamed."""
        ...


def rows_of(shape: tuple[int, int, int]) -> np.dtype[Any]:
    """Return what a row of a part is, for images of a shape (C, H, W)."""
    return np.dtype([("sha256", np.uint8, 32), ("pixels_sha256", np.uint8, 32), ("pixels", np.uint8, shape)])


def restore(store: PartStore, decoded: DecodedImages, file: PixelFile) -> None:
    """Add the images of all parts to the file, each once, and note where they are.

    Raises:
        UnavailableError: the disk is full.
    """
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="decoded-") as folder, ThreadPoolExecutor(TRANSFERS, "fetch") as pool:

        def take(name: str) -> None:
            part = store.fetch(name, Path(folder))
            if part is None:
                return
            for rows in _read(part, file.shape):
                of = [row["sha256"].tobytes().hex() for row in rows]
                with lock:  # the images of a part that could not be fetched are in a later one, too
                    new = {sha256: row for row, sha256 in enumerate(of) if decoded.get(sha256) is None}
                    rows = rows[list(new.values())]
                    for sha256, row, image in zip(new, rows, file.extend(rows["pixels"]), strict=True):
                        decoded.setdefault(sha256, (image, row["pixels_sha256"].tobytes()))
            part.unlink()

        list(pool.map(take, store.names()))


class PartWriter:
    """Stores the images that are added to a file from now on, a part at a time, beside decoding.

    Decoding never waits for the store: pixels stay in the file until their part is written. A part that cannot be
    stored is left out, as only a retry would miss it. At the end of the block the parts that are on their way are
    waited for; what is left then, and what is no whole part, is not stored.
    """

    def __init__(self, store: PartStore, file: PixelFile, images: int) -> None:
        """Begin after the images that the file has.

        Args:
            store: where parts go.
            file: the images.
            images: how many it will have at most.
        """
        self._store, self._file, self._begin = store, file, len(file)
        each = math.prod(file.shape)
        of_part = min(max(PART_BYTES, images * each // MOST_PARTS), LARGEST_PART_BYTES)
        self._images = max(1, of_part // each)  # in a part
        self._begun: dict[int, _Digests] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(TRANSFERS, "store")
        self._writes: list[Future[None]] = []
        self._failing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            left = [write for write in self._writes if not write.done()]
            for write in left[TRANSFERS:]:
                write.cancel()
            wait(left[:TRANSFERS])
        # After an error, such as a signal, nothing is waited for: the run has to be ended in time.
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def add(self, image: FiledImage, sha256: str, pixels_sha256: bytes) -> None:
        """Note that an image was added to the file, from any thread, with the digests of its file and its pixels."""
        number, place = divmod(image.position - self._begin, self._images)
        with self._lock:
            digests = self._begun.get(number) or self._begun.setdefault(number, _Digests(self._images))
            digests.both[place] = np.frombuffer(bytes.fromhex(sha256) + pixels_sha256, np.uint8).reshape(2, 32)
            digests.noted += 1
            if digests.noted < self._images:
                return
            del self._begun[number]
            self._writes.append(self._pool.submit(self._write, self._begin + number * self._images, digests.both))

    def _write(self, begin: int, digests: NDArray[np.uint8]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="decoded-") as folder:
                part = Path(folder) / "part.npy"
                with part.open("wb") as target:
                    sha256 = self._fill(target, begin, digests)
                self._store.store(part, sha256)
        except Exception as error:  # whatever the store's client raises: the images themselves are in the file
            if not self._failing:
                log.warning(
                    "%d decoded images were not stored for a retry (%s: %s); decoding goes on",
                    *(self._images, type(error).__name__, error),
                )
            self._failing = True
        else:
            self._failing = False

    def _fill(self, target: IO[bytes], begin: int, digests: NDArray[np.uint8]) -> str:
        """Write the rows of a part; return the SHA-256 of the file."""
        kind, whole = rows_of(self._file.shape), hashlib.sha256()
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (self._images,)}
        np.lib.format.write_array_header_1_0(_Hashed(target, whole), header)
        at_once = max(1, CHUNK_BYTES // kind.itemsize)
        for start in range(0, self._images, at_once):
            chunk = digests[start : start + at_once]
            rows = np.empty(len(chunk), kind)
            rows["sha256"], rows["pixels_sha256"] = chunk[:, 0], chunk[:, 1]
            rows["pixels"] = self._file.read(np.arange(begin + start, begin + start + len(rows)))
            data = rows.view(np.uint8).data
            whole.update(data)
            target.write(data)
        return whole.hexdigest()


class _Digests:
    """Those of the images of a part, uint8 [N, 2, 32], and how many of them are noted."""

    def __init__(self, images: int) -> None:
        self.both, self.noted = np.zeros((images, 2, 32), np.uint8), 0  # takes no memory where nothing is noted


class _Hashed:
    """The write side of a file, whose bytes go into a digest too."""

    def __init__(self, target: IO[bytes], digest: Any) -> None:
        self._target, self._digest = target, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._target.write(data)


def _read(part: Path, shape: tuple[int, int, int]) -> Iterator[NDArray[Any]]:
    """Yield the rows of a part, whose digest was checked, some at a time."""
    kind = rows_of(shape)
    with part.open("rb") as source:
        np.lib.format.read_magic(source)
        _, _, found = np.lib.format.read_array_header_1_0(source)
        if found != kind:
            raise ValueError(f"{part.name} has rows of {found}, not of {kind}")
        while len(rows := np.fromfile(source, kind, max(1, CHUNK_BYTES // kind.itemsize))):
            yield rows

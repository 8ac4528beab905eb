"""Decoded images on disk, until gold is made of them: the memory that they take does not grow with their number."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UnavailableError
from tasks.vision.data.image_rows import positions_of, read_rows


class PixelFile:
    """A file without a name, which takes images uint8 [C, H, W] from any thread.

    It is gone when nothing refers to it any more, also when the process is killed. It is not mapped into memory: where
    memory is short, reading 46,000 images of 224 pixels from a map in random order took 450 s, and 13 s from the file.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Make an empty file for images of this shape."""
        self.shape = shape
        self._each = math.prod(shape)
        self._file = tempfile.TemporaryFile(prefix="pixels-")  # noqa: SIM115  # closed in the next line
        weakref.finalize(self, self._file.close)
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def add(self, pixels: NDArray[np.uint8]) -> FiledImage:
        """Write an image to the file.

        Raises:
            UnavailableError: the disk is full.
        """
        return self.extend(pixels[np.newaxis])[0]

    def extend(self, pixels: NDArray[np.uint8]) -> list[FiledImage]:
        """Write images [N, C, H, W] to the file, one after another.

        Raises:
            UnavailableError: the disk is full.
        """
        with self._lock:
            position = self._count
            self._count += len(pixels)
        block, offset = memoryview(pixels.tobytes()), position * self._each
        try:
            while len(block):
                count = os.pwrite(self._file.fileno(), block, offset)
                block, offset = block[count:], offset + count
        except OSError as error:
            raise UnavailableError(
                f"{tempfile.gettempdir()} has no room for an image after {position:,} others of {self._each:,} bytes "
                f"({error}); free some, or give the stage a larger disk"
            ) from error
        return [FiledImage(self, position + number) for number in range(len(pixels))]

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at these positions, [B, C, H, W]."""
        pixels = np.empty((len(positions), *self.shape), np.uint8)
        rows = pixels.reshape(len(positions), self._each)
        read_rows(self._file.fileno(), 0, positions, rows, np.arange(len(positions)))
        return pixels


class FiledImage:
    """An image in a file."""

    __slots__ = ("file", "position")

    def __init__(self, file: PixelFile, position: int) -> None:
        self.file, self.position = file, position

    def read(self) -> NDArray[np.uint8]:
        """Return its pixels, uint8 [C, H, W]."""
        pixels: NDArray[np.uint8] = self.file.read(np.array([self.position]))[0]
        return pixels


class FiledImages:
    """Images of one file as if they were one array, uint8 [N, C, H, W]: only what is asked for is in memory."""

    def __init__(self, file: PixelFile, positions: NDArray[np.int64]) -> None:
        """Take the file and the positions of the images in it [N]."""
        self._file, self._positions = file, positions
        self.shape = (len(positions), *file.shape)
        self.dtype = np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._positions)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return the image at a position, [C, H, W], or those at a slice or at positions, [B, C, H, W].

        Raises:
            IndexError: there is no such image.
        """
        if isinstance(index, int | np.integer):
            found: NDArray[np.uint8] = self[np.array([index])][0]
            return found
        return self._file.read(self._positions[positions_of(index, len(self))])

"""Decoded images on disk, until gold is made of them: the memory that they take does not grow with their number."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UnavailableError

SEGMENT_BYTES = 64 * 2**20  # mapped at a time, at least; each takes a descriptor, so that large files have larger ones
SEGMENTS = 64


class PixelFile:
    """A file without a name, which takes images from any thread and gives them back as arrays.

    The kernel reads an array's pixels when they are looked at, and drops them when memory is short. The file is gone
    when nothing refers to it or to one of its arrays any more, also when the process is killed.
    """

    def __init__(self, images: int, shape: tuple[int, int, int]) -> None:
        """Make an empty file for images uint8 [C, H, W]; `images` is about how many there will be."""
        self._shape, self._each = shape, math.prod(shape)
        wanted = min(images * self._each, max(SEGMENT_BYTES, images * self._each // SEGMENTS))
        self._per_segment = max(1, wanted // self._each)
        self._file = tempfile.TemporaryFile(prefix="pixels-")  # noqa: SIM115  # closed when it is not used any more
        self._size = 0
        self._free: deque[NDArray[np.uint8]] = deque()
        self._lock = threading.Lock()

    def add(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write an image to the file; return it as the file has it.

        Raises:
            UnavailableError: the disk is full.
        """
        with self._lock:
            if not self._free:
                self._free.extend(self._segment())
            kept = self._free.popleft()
        kept[...] = pixels
        return kept

    def _segment(self) -> NDArray[np.uint8]:
        """Make the file longer, and map what was added as images [N, C, H, W]."""
        used = self._per_segment * self._each
        size = math.ceil(used / mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        descriptor, start = self._file.fileno(), self._size
        try:
            if hasattr(os, "posix_fallocate"):  # macOS has not got it
                # Now, while it can fail: to write to a page that the disk has no room for ends the process.
                os.posix_fallocate(descriptor, start, size)
            else:
                os.truncate(descriptor, start + size)
            memory = mmap.mmap(descriptor, size, offset=start)
        except OSError as error:
            raise UnavailableError(
                f"{tempfile.gettempdir()} has no room for {size:,} more bytes of images ({error}); free some, or give "
                "the stage a larger disk"
            ) from error
        self._size += size
        return np.frombuffer(memory, np.uint8, used).reshape(self._per_segment, *self._shape)


class Stacked:
    """Images [C, H, W] as if they were one array [N, C, H, W], of which only what is asked for is in memory."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Take at least one image; all have the same shape."""
        self._images = images
        self.shape = (len(images), *images[0].shape)
        self.dtype = np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return the image at a position, or an array of those at a slice or at positions."""
        if isinstance(index, int | np.integer):
            return self._images[int(index)]
        chosen = self._images[index] if isinstance(index, slice) else [self._images[at] for at in np.asarray(index)]
        return np.stack(chosen) if len(chosen) else np.empty((0, *self.shape[1:]), np.uint8)

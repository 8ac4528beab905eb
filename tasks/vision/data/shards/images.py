"""The images of a split in shards, read at any positions: like an array, without holding one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.image_rows import positions_of, read_rows
from tasks.vision.data.shards.cache import ShardCache
from tasks.vision.data.shards.description import HEADER_BYTES, SplitFiles, shard_name


class ShardImages:
    """Images uint8 [N, C, H, W]. Threads may share it."""

    def __init__(self, cache: ShardCache, split: str, files: SplitFiles, shape: tuple[int, int, int]) -> None:
        """Read from `cache` what the description says of a split; nothing is fetched yet."""
        self._cache, self._each = cache, math.prod(shape)
        self._names = [shard_name(split, number, len(files.shards)) for number in range(len(files.shards))]
        self._starts = np.cumsum([0, *(shard.images for shard in files.shards)])
        self.shape = (files.images, *shape)
        self.dtype = np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first image of each shard, and the number of all images."""
        return self._starts

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return the image at a position, [C, H, W], or those at a slice or at positions, [B, C, H, W].

        Raises:
            IndexError: there is no such image.
            ChangedError: a shard is not what was stored.
            DataError: the disk gives less than it was given.
        """
        if isinstance(index, int | np.integer):
            found: NDArray[np.uint8] = self[np.array([index])][0]
            return found
        positions = positions_of(index, len(self))
        pixels = np.empty((len(positions), *self.shape[1:]), np.uint8)
        rows = pixels.reshape(len(positions), self._each)
        shard_of = self._starts.searchsorted(positions, side="right") - 1
        for shard in np.unique(shard_of).tolist():
            into = np.flatnonzero(shard_of == shard)
            with self._cache.opened(self._names[shard]) as file:
                read_rows(file, HEADER_BYTES, positions[into] - self._starts[shard], rows, into)
        return pixels

    def close(self) -> None:
        """Remove the shards that are on the disk; no image can be read any more."""
        self._cache.close()

    def expect(self, shards: Sequence[int]) -> None:
        """Have shards fetched that will be read, by their numbers."""
        self._cache.expect(self._names[shard] for shard in shards)

    def in_memory(self) -> NDArray[np.uint8]:
        """Read all images, shard by shard, each of which is fetched once."""
        pixels = np.empty(self.shape, np.uint8)
        for start, end in self._in_order():
            pixels[start:end] = self[start:end]
        return pixels

    def require_all(self) -> None:
        """Fetch every shard once.

        Raises:
            ChangedError: one is not what was stored.
        """
        for start, _ in self._in_order():
            self[start]

    def _in_order(self) -> Iterator[tuple[int, int]]:
        """Yield the first image of each shard and that after its last, while the next shard is fetched."""
        for shard, (start, end) in enumerate(pairwise(self._starts.tolist())):
            self.expect(range(shard, min(shard + 2, len(self._names))))
            yield start, end

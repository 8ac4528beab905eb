"""Reads images of one size from a file in which they lie one after another."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError


def read_rows(
    file: int, start: int, positions: NDArray[np.int64], rows: NDArray[np.uint8], into: NDArray[np.int64]
) -> None:
    """Read images; those that lie next to each other, and go next to each other, at once.

    Args:
        file: descriptor of the file.
        start: byte at which the first image begins.
        positions: of the images in the file [B], in any order.
        rows: where the pixels go, [N, bytes of an image].
        into: the row of each image [B].

    Raises:
        DataError: the file ends early.
    """
    if not len(positions):
        return
    each = rows.shape[1]
    order = positions.argsort(kind="stable")
    positions, into = positions[order], into[order]
    breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(into) != 1)) + 1
    for begin, end in pairwise([0, *breaks.tolist(), len(order)]):
        row = int(into[begin])
        block = memoryview(rows[row : row + end - begin].reshape(-1))  # type: ignore[arg-type]
        offset = start + int(positions[begin]) * each
        while len(block):
            count = os.preadv(file, [block], offset)
            if count == 0:
                raise DataError("a file of images on this machine ends early; start the stage again")
            block, offset = block[count:], offset + count


def positions_of(index: object, count: int) -> NDArray[np.int64]:
    """Return the positions that an index means, a slice or positions, of so many images.

    Raises:
        IndexError: there is no such image.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    positions = np.asarray(index, np.int64)
    positions = np.where(positions < 0, positions + count, positions)
    if len(positions) and not 0 <= positions.min() <= positions.max() < count:
        raise IndexError(f"an image of {positions.min()} to {positions.max()}, and there are {count}")
    return positions

"""Reads batches from shards before they are asked for, in several threads; always the same batches, in order."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import WINDOW_BYTES
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.memory import available_memory

AHEAD_BYTES, AHEAD_SHARE = 256 * 2**20, 1 / 16  # of batches that wait, at most: bytes, and of the memory that is left
FEWEST, MOST = 2, 64  # batches that wait


def read_ahead(
    images: ShardImages, batches: Sequence[NDArray[np.int64]], threads: int | None = None
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the images of each batch, uint8 [B, C, H, W].

    Args:
        images: where they are.
        batches: positions of the images [B] of each.
        threads: that read; by default as many as there are CPUs.
    """
    threads = threads or available_cpus()
    largest = max((len(batch) for batch in batches), default=1) * math.prod(images.shape[1:])
    waiting_bytes = min(AHEAD_BYTES, int((available_memory() or AHEAD_BYTES / AHEAD_SHARE) * AHEAD_SHARE))
    ahead = max(FEWEST, min(MOST, waiting_bytes // largest))
    plan = _Plan(images, batches)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for number, batch in enumerate(batches):
            plan.begin(number)
            waiting.append(pool.submit(plan.read, number, batch))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except SystemExit:  # SIGTERM: the process ends while its threads still wait for a store that is away
        images.close()
        raise
    finally:  # also where the caller stops early; nobody waits for what is read no more
        pool.shutdown(wait=False, cancel_futures=True)


class _Plan:
    """Which shards are needed from which batch to which."""

    def __init__(self, images: ShardImages, batches: Sequence[NDArray[np.int64]]) -> None:
        shards = len(images.starts) - 1
        self._images = images
        self._first, self._last = np.full(shards, len(batches)), np.full(shards, -1)
        for number, batch in enumerate(batches):
            used = np.unique(images.starts.searchsorted(batch, side="right") - 1)
            self._first[used] = np.minimum(self._first[used], number)
            self._last[used] = number
        self._used = self._first.argsort(kind="stable")
        self._begun = set[int]()  # batches that are not read yet
        self._expected = -1  # from which batch on the shards are expected
        self._lock = threading.Lock()
        # As many batches ahead as a window has.
        read = sum(map(len, batches)) * math.prod(images.shape[1:])
        self._ahead = math.ceil(len(batches) / max(1, math.ceil(read / WINDOW_BYTES)))

    def begin(self, number: int) -> None:
        """Note that a batch is going to be read; its shards and those of later ones are needed from now on."""
        with self._lock:
            self._begun.add(number)

    def read(self, number: int, batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read a batch, and have the shards fetched that it and the next ones need."""
        with self._lock:
            oldest = min(self._begun)
            if oldest > self._expected:
                self._expected = oldest
                near = (self._last >= oldest) & (self._first <= oldest + self._ahead)
                self._images.expect([shard for shard in self._used.tolist() if near[shard]])
        try:
            return self._images[batch]
        finally:
            with self._lock:
                self._begun.discard(number)

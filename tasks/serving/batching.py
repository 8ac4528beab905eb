"""Adaptive batching: what arrives while the model is busy goes through it together, in its next pass.

Nobody waits for a batch to fill. A request that finds the model idle is a batch of one, at once; the busier the
service, the larger the batches get by themselves (docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.serving.model import CHUNK, ServedModel


@dataclass(frozen=True)
class _Job:
    """Up to CHUNK images that wait for their model."""

    model: ServedModel
    images: NDArray[np.uint8]
    answer: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Runs forward passes one after the other in a thread of its own, each with all that waits, up to CHUNK images.

    A pass is one model's: while the follower swaps models, what was begun with the old one goes through the old one.
    All methods belong to the event loop.
    """

    def __init__(self, passed: Callable[[int], None] = lambda images: None) -> None:
        """Make the thread; `passed` is told the size of each pass."""
        self._passed = passed
        self._waiting: deque[_Job] = deque()
        self._busy = False
        self._thread = ThreadPoolExecutor(1, "forward")

    async def predict(self, model: ServedModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images by `model`; many of them take turns with the other requests, CHUNK at a time.

        Args:
            model: the model that answers all of them.
            images: uint8 [N, C, H, W], 0..255, N at least 1.

        Returns:
            float32 [N, K]: the probability of each of the model's classes.

        Raises:
            Exception: what the model raised; everyone in that pass gets it.
        """
        parts = [await self._queue(model, images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        return np.concatenate(parts)

    def close(self) -> None:
        """Let the thread end after its pass."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _queue(self, model: ServedModel, images: NDArray[np.uint8]) -> asyncio.Future[NDArray[np.float32]]:
        job = _Job(model, images, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if not self._busy:
            self._start()
        return job.answer

    def _start(self) -> None:
        """Begin the next pass, if anything waits."""
        batch = self._take()
        self._busy = bool(batch)
        if batch:
            images = batch[0].images if len(batch) == 1 else np.concatenate([job.images for job in batch])
            running = asyncio.get_running_loop().run_in_executor(self._thread, batch[0].model.forward, images)
            running.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Job]:
        """Take the jobs in front that are of one model and fit into one pass; those given up meanwhile are dropped."""
        batch: list[_Job] = []
        room = CHUNK
        while self._waiting:
            job = self._waiting[0]
            if not job.answer.done():
                if len(job.images) > room or (batch and job.model is not batch[0].model):
                    break
                batch.append(job)
                room -= len(job.images)
            self._waiting.popleft()
        return batch

    def _finish(self, batch: list[_Job], done: asyncio.Future[NDArray[np.float32]]) -> None:
        self._start()  # first: the model works on while answers are written
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        self._passed(sum(len(job.images) for job in batch))
        first = 0
        for job in batch:
            last = first + len(job.images)
            if job.answer.done():
                pass  # whoever asked is gone
            elif isinstance(error, asyncio.CancelledError):
                job.answer.cancel()
            elif error is not None:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(done.result()[first:last])
            first = last

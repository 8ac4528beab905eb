"""Adaptive batching: images that arrive while the model is busy form the batch of its next forward pass.

No request waits for a batch to fill. When the model is idle, a request is a batch of its own at once; the busier the
service, the larger the batches (docs/decisions/0009).
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
    """Up to CHUNK images that wait for their forward pass."""

    model: ServedModel
    images: NDArray[np.uint8]
    answer: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Runs forward passes one after another in a thread of its own, each with all waiting images up to CHUNK.

    A pass uses one model: while the follower swaps models, requests that started with the old one finish with it.
    All methods belong to the event loop.
    """

    def __init__(self, passed: Callable[[int], None] = lambda images: None) -> None:
        """Start the thread; `passed` is called with the size of each pass."""
        self._passed = passed
        self._waiting: deque[_Job] = deque()
        self._busy = False
        self._thread = ThreadPoolExecutor(1, "forward")

    async def predict(self, model: ServedModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images by `model`; a large request takes turns with others, CHUNK images at a time.

        Args:
            model: the model that answers all of them.
            images: uint8 [N, C, H, W], 0..255, N at least 1.

        Returns:
            float32 [N, K]: the probability of each of the model's classes.

        Raises:
            Exception: what the model raised; every request in that pass gets it.
        """
        parts = [await self._queue(model, images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        return np.concatenate(parts)

    def close(self) -> None:
        """End the thread after its current pass."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _queue(self, model: ServedModel, images: NDArray[np.uint8]) -> asyncio.Future[NDArray[np.float32]]:
        job = _Job(model, images, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if not self._busy:
            self._start()
        return job.answer

    def _start(self) -> None:
        """Start the next pass, if any images wait."""
        batch = self._take()
        self._busy = bool(batch)
        if batch:
            images = batch[0].images if len(batch) == 1 else np.concatenate([job.images for job in batch])
            running = asyncio.get_running_loop().run_in_executor(self._thread, batch[0].model.forward, images)
            running.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Job]:
        """Take the first jobs that use one model and fit into one pass; cancelled ones are dropped."""
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
        self._start()  # first, so that the model works while answers are written
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        self._passed(sum(len(job.images) for job in batch))
        first = 0
        for job in batch:
            last = first + len(job.images)
            if job.answer.done():
                pass  # the client is gone
            elif isinstance(error, asyncio.CancelledError):
                job.answer.cancel()
            elif error is not None:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(done.result()[first:last])
            first = last

"""Adaptive batching: images that arrive while the model is busy form the batch of its next forward pass.

No request waits for a batch to fill. When a thread is idle, a request is a batch of its own at once; the busier the
service, the larger the batches (docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tasks.serving.model import CHUNK, ServedModel

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]


class Job:
    """The images of one request, for one model, and where its answer goes."""

    def __init__(self, model: ServedModel) -> None:
        """Take the model; `answer` belongs to the event loop that runs now."""
        self.model = model
        self.answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.images: Pixels = np.empty((0, *model.shape), np.uint8)
        """uint8 [N, C, H, W], set before the job is put into the queue."""
        self._taken = 0
        self._rows: list[Rows] = []

    def take(self, room: int) -> Pixels:
        """Take up to `room` of the images that no pass has taken yet."""
        part = self.images[self._taken : self._taken + room]
        self._taken += len(part)
        return part

    def give(self, rows: Rows) -> bool:
        """Add the answers to the images that were taken last, and answer if they are the last; whether they are."""
        self._rows.append(rows)
        if self._taken < len(self.images):
            return False
        whole = rows if len(self._rows) == 1 else np.concatenate(self._rows)
        self._tell(lambda: self.answer.set_result(whole))
        return True

    def when_done(self, call: Callable[[], None]) -> None:
        """Have a function called once the job is answered or abandoned, at once if it is, from any thread."""
        with suppress(RuntimeError):  # the service has ended, and with it the event loop
            self.answer.get_loop().call_soon_threadsafe(self.answer.add_done_callback, lambda _: call())

    def fail(self, error: BaseException) -> None:
        """Answer with an error, from any thread."""
        self._tell(lambda: self.answer.set_exception(error))

    def _tell(self, answer: Callable[[], None]) -> None:
        # The client may be gone, and its future cancelled; or the service has ended, and with it the event loop.
        with suppress(RuntimeError):
            self.answer.get_loop().call_soon_threadsafe(lambda: None if self.answer.done() else answer())


class Batcher:
    """Runs forward passes in threads of its own, each pass with all waiting images up to CHUNK.

    A pass uses one model: while the follower swaps models, requests that started with the old one finish with it.
    """

    def __init__(self, passed: Callable[[int], None] = lambda images: None) -> None:
        """Start with one thread; `passed` is called with the size of each pass, in the thread that ran it."""
        self._passed = passed
        # A job is in the queue or in one thread's pass, never in both.
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = 0
        self.resize(1)

    def resize(self, passes: int) -> None:
        """Run so many passes at a time from now on, each in a thread."""
        for _ in range(self._threads, passes):
            threading.Thread(target=self._run, name="forward", daemon=True).start()
        for _ in range(passes, self._threads):
            self._queue.put(None)
        self._threads = passes

    async def predict(self, model: ServedModel, images: Pixels) -> Rows:
        """Classify images by `model`; a large request takes turns with others, CHUNK images at a time.

        Args:
            model: the model that answers all of them.
            images: uint8 [N, C, H, W], 0..255, N at least 1.

        Returns:
            float32 [N, K]: the probability of each of the model's classes.

        Raises:
            Exception: what the model raised; every request in that pass gets it.
        """
        job = Job(model)
        job.images = images
        self.put(job)
        return await job.answer

    def put(self, job: Job) -> None:
        """Queue a job that has its images, from any thread."""
        self._queue.put(job)

    def close(self) -> None:
        """End each thread after its current pass."""
        self.resize(0)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._pass(job)

    def _pass(self, first: Job) -> None:
        """Run a pass with the images of a job and of those that wait behind it for the same model."""
        model, room = first.model, CHUNK
        batch: list[tuple[Job, Pixels]] = []
        job: Job | None = first
        while job is not None:
            if not job.answer.done():  # by its cancellation
                batch.append((job, job.take(room)))
                room -= len(batch[-1][1])
            job = self._next(model) if room else None
        if batch:
            self._answer(model, batch)

    def _next(self, model: ServedModel) -> Job | None:
        """Take the next job out of the queue if it waits for this model."""
        try:
            job = self._queue.get_nowait()
        except Empty:
            return None
        if job is None or job.model is not model:
            self._queue.put(job)  # the end of a thread, or a pass of its own
            return None
        return job

    def _answer(self, model: ServedModel, batch: list[tuple[Job, Pixels]]) -> None:
        parts = [part for _, part in batch]
        try:
            rows = model.forward(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:  # whatever the runtime throws
            for job, _ in batch:
                job.fail(error)
            return
        self._passed(len(rows))
        for (job, _), own in zip(batch, np.split(rows, np.cumsum([len(part) for part in parts])[:-1]), strict=True):
            if not job.give(own):
                self._queue.put(job)  # behind those that came meanwhile

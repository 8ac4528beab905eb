"""Adaptive batching: images that arrive while the model is busy form the batch of its next forward pass.

No request waits for a batch to fill. When the model is idle, a request is a batch of its own at once; the busier the
service, the larger the batches (docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tasks.serving.model import CHUNK, ServedModel

Rows = NDArray[np.float32]


class Job:
    """The images of one request, for one model, and where its answer goes."""

    def __init__(self, model: ServedModel) -> None:
        """Take the model; `answer` belongs to the event loop that runs now."""
        self.model = model
        self.answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.images: NDArray[np.uint8] = np.empty((0, *model.shape), np.uint8)
        """uint8 [N, C, H, W], set before the job is put into the queue."""
        self.rows: list[Rows] = []
        self.taken = 0

    def take(self, room: int) -> NDArray[np.uint8]:
        """Take up to `room` of the images that no pass has taken yet."""
        part = self.images[self.taken : self.taken + room]
        self.taken += len(part)
        return part

    def fail(self, error: BaseException) -> None:
        """Answer with an error, from any thread."""
        self._tell(lambda: self.answer.set_exception(error))

    def finish(self) -> None:
        """Answer with the rows, from any thread."""
        rows = self.rows[0] if len(self.rows) == 1 else np.concatenate(self.rows)
        self._tell(lambda: self.answer.set_result(rows))

    def _tell(self, answer: Callable[[], None]) -> None:
        # The client may be gone, and its future cancelled.
        self.answer.get_loop().call_soon_threadsafe(lambda: None if self.answer.done() else answer())


class Batcher:
    """Runs forward passes one after another in a thread of its own, each with all waiting images up to CHUNK.

    A pass uses one model: while the follower swaps models, requests that started with the old one finish with it.
    """

    def __init__(self, passed: Callable[[int], None] = lambda images: None) -> None:
        """Start the thread; `passed` is called in it with the size of each pass."""
        self._passed = passed
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._thread.start()

    async def predict(self, model: ServedModel, images: NDArray[np.uint8]) -> Rows:
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
        """End the thread after its current pass."""
        self._queue.put(None)

    def _run(self) -> None:
        waiting: deque[Job] = deque()
        while True:
            while not (waiting and self._queue.empty()):
                job = self._queue.get()
                if job is None:
                    return
                waiting.append(job)
            self._pass(waiting)

    def _pass(self, waiting: deque[Job]) -> None:
        """Answer the first images that use one model and fit into one pass; jobs of which some remain go to the end."""
        batch: list[tuple[Job, NDArray[np.uint8]]] = []
        room, model = CHUNK, waiting[0].model
        while waiting and room and waiting[0].model is model:
            job = waiting.popleft()
            if not job.answer.done():  # by its cancellation
                batch.append((job, job.take(room)))
                room -= len(batch[-1][1])
        if not batch:
            return
        try:
            parts = [part for _, part in batch]
            rows = model.forward(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:  # whatever the runtime throws
            for job, _ in batch:
                job.fail(error)
            return
        self._passed(CHUNK - room)
        first = 0
        for job, part in batch:
            job.rows.append(rows[first : first + len(part)])
            first += len(part)
            if job.taken == len(job.images):
                job.finish()
            else:
                waiting.append(job)

"""Classifies images with the model in service: what all ways of asking share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.serving.admission import Admission
from tasks.serving.batching import Batcher, Job
from tasks.serving.http_errors import HttpError
from tasks.serving.metrics import PredictionCounter
from tasks.serving.model import ServedModel
from tasks.serving.request_bodies import Files
from tasks.vision.data.images import MAX_PIXELS, open_image, pixels

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of a request up to which it is decoded by the thread for small ones. One thread decodes them faster than two,
# which would take Python's lock from each other, and there they do not wait behind photos.
SMALL = 16 * 2**10
DECODERS = 2  # threads for larger requests
# Pixels of all images of a request: a file of 84 kB may hold 67 million, and a request 128 such files.
MOST_PIXELS = 4 * MAX_PIXELS


class Predictor:
    """The model in service, and the queue in front of it. One per worker."""

    def __init__(self, index: int = 0, workers: int = 1) -> None:
        """Take this worker's number, from 0 on, and how many there are."""
        self.index = index
        self.current: ServedModel | None = None
        """To be read once per request; None until `use`."""
        self.workers = workers
        self._counter = PredictionCounter()
        self._batcher = Batcher(self._counter.passed)
        self._small, self._large = ThreadPoolExecutor(1, "decode-small"), ThreadPoolExecutor(DECODERS, "decode-large")
        self._admission = Admission()

    def use(self, model: ServedModel) -> None:
        """Put a model into service; requests that have begun are answered by the one before."""
        self._counter.expect(model)
        self._batcher.resize(model.passes)
        self.current = model

    def stop(self) -> None:
        """End the threads."""
        self._batcher.close()
        self._small.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)

    async def classify(self, model: ServedModel, files: Callable[[], Files], size: int) -> NDArray[np.float32]:
        """Return the probabilities that a model gives to images, float32 [N, K].

        Args:
            model: which one.
            files: reads the images out of the request; called in a thread.
            size: of the request in bytes.

        Raises:
            HttpError: 400, one of them is no image; 503, too many requests are in progress; whatever `files` raises.
        """
        with self._admission.one():
            job = Job(model)
            (self._small if size <= SMALL else self._large).submit(self._decode, job, files)
            rows = await job.answer
        self._counter.add(model, (model.classes[index] for index in rows.argmax(1)))
        return rows

    def _decode(self, job: Job, files: Callable[[], Files]) -> None:
        """Decode the images of a job in this thread, and pass it on to the model without a detour by the event loop."""
        if job.answer.done():
            return  # its time is over, or its client gone
        try:
            job.images = _decoded(files(), job.model.shape)
        except BaseException as error:  # HttpError is no Exception
            job.fail(error)
        else:
            self._batcher.put(job)


def _decoded(files: Files, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, size, _ = shape
    opened = [(name, _of(name, open_image, data)) for name, data in files]
    total = sum(image.width * image.height for _, image in opened)
    if total > MOST_PIXELS:
        raise HttpError(400, f"the images have {total} pixels together, over {MOST_PIXELS}; send fewer or smaller ones")
    return np.stack([_of(name, pixels, image, channels, size) for name, image in opened])


def _of(name: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads an image; its error names the image."""
    try:
        return read(*args, **kwargs)
    except DataError as error:
        raise HttpError(400, f"{name}: {error}") from error

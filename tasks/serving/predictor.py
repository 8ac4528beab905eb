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
from tasks.serving.follower import Follower
from tasks.serving.http_errors import HttpError
from tasks.serving.metrics import PredictionCounter
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Reference, Target, parse
from tasks.serving.reference_check import load_verified
from tasks.serving.request_bodies import Files
from tasks.settings import Settings
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
    """The model that SERVING_MODEL names, kept up to date, and the queue in front of it. One per process."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; see `start`."""
        reference = parse(settings.serving_model, settings.serving_registered_model)
        self.told = settings.serving_model or reference.name
        self._counter = PredictionCounter()
        self._batcher = Batcher(self._counter.passed)
        self._small, self._large = ThreadPoolExecutor(1, "decode-small"), ThreadPoolExecutor(DECODERS, "decode-large")
        self._admission = Admission()
        self.follower = Follower(reference, settings.serving_poll_seconds, _resolve, self._load)

    def start(self) -> None:
        """Start to fetch the model; predictions are refused with 503 until it is loaded."""
        self.follower.start()

    def stop(self) -> None:
        """End the threads."""
        self.follower.stop()
        self._batcher.close()
        self._small.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)

    @property
    def model(self) -> ServedModel:
        """The model in service, to be read once per request.

        Raises:
            HttpError: 503, there is none yet.
        """
        model = self.follower.current
        if model is None:
            raise HttpError(503, f"no model is loaded yet: {self.follower.problem or 'it is being fetched'}; try later")
        return model

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

    def _load(self, target: Target) -> ServedModel:
        model = load_verified(target)
        self._counter.expect(model)
        self._batcher.resize(model.passes)
        return model


def _resolve(reference: Reference) -> Target:
    # Imported in the follower's thread: MLflow takes seconds, and the service should be alive before.
    from tasks.serving.resolution import resolve

    return resolve(reference)


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

"""Classifies images with the model in service: what all ways of asking share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.serving.admission import Admission
from tasks.serving.batching import Batcher, Job
from tasks.serving.decoding import Decoding
from tasks.serving.metrics import PredictionCounter
from tasks.serving.model import ServedModel
from tasks.serving.request_bodies import Files
from tasks.settings import Settings


class Predictor:
    """The model in service, and the queue in front of it. One per worker."""

    def __init__(self, settings: Settings, index: int = 0, workers: int = 1) -> None:
        """Take the limits for images, this worker's number, from 0 on, and how many there are."""
        self.index = index
        self.current: ServedModel | None = None
        """To be read once per request; None until `use`."""
        self.workers = workers
        self._counter = PredictionCounter()
        self._batcher = Batcher(self._counter.passed)
        self._decoding = Decoding(settings, self._batcher.put)
        self._admission = Admission()

    def use(self, model: ServedModel) -> None:
        """Put a model into service; requests that have begun are answered by the one before."""
        self._counter.expect(model)
        self._batcher.resize(model.passes)
        self.current = model

    def stop(self) -> None:
        """End the threads."""
        self._batcher.close()
        self._decoding.stop()

    def check_free(self) -> None:
        """Refuse a request before its upload is received, if it would be refused after that.

        Raises:
            HttpError: 503, as `classify` raises it.
        """
        self._admission.check()

    async def classify(self, model: ServedModel, files: Callable[[], Files], size: int) -> NDArray[np.float32]:
        """Return the probabilities that a model gives to images, float32 [N, K].

        Args:
            model: which one.
            files: reads the images out of the request; called in a thread.
            size: of the request in bytes.

        Raises:
            HttpError: 400, one of them is no image; 413, they have too many pixels; 503, too many requests are in
                progress; whatever `files` raises.
        """
        with self._admission.one():
            job = Job(model)
            self._decoding.start(job, files, size)
            rows = await job.answer
        self._counter.add(model, (model.classes[index] for index in rows.argmax(1)))
        return rows

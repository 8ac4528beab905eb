"""Has the workers of a Ray answer for models. The stage reads the images and gets the answers.

Nodes of a cluster get models and images from the stage; they need no password of MLflow or a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from tasks.cluster.workers import Workers, workers_of
from tasks.serving.fetched_model import FetchedModel
from tasks.serving.model_worker import ModelWorker, SentModel
from tasks.settings import Settings
from tasks.vision.evaluation.scoring import BATCH
from tasks.vision.models.forward import Forward

CLASS_BYTES = 4  # of a probability


@contextmanager
def model_workers(
    workers: int, cpus: int | None, settings: Settings, models: Sequence[FetchedModel], classes: int
) -> Iterator[ModelWorkers]:
    """Start workers that answer for models, and end them with the block.

    Args:
        workers: how many.
        cpus: cores of each; None: one on a cluster, else those of this machine, divided.
        settings: the cluster, if there is one.
        models: what they will be asked for.
        classes: of these models.

    Raises:
        RequestError: the machines have too little room for the workers.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    image_bytes = max(math.prod(model.shape) for model in models) + classes * CLASS_BYTES
    with workers_of(
        *(ModelWorker, lambda _: (), workers, cpus, settings),
        held_bytes=sum(model.nbytes for model in models),
        call_bytes=BATCH * image_bytes,
    ) as started:
        yield ModelWorkers(started)


class ModelWorkers:
    """Workers that answer for any model which the stage has fetched."""

    def __init__(self, workers: Workers) -> None:
        """Take workers that have an `answer` each."""
        self._workers = workers

    @property
    def at_once(self) -> int:
        """Threads that keep all workers busy."""
        return self._workers.at_once

    def forward(self, model: FetchedModel, runtime: str) -> Forward:
        """Send one form of a model, and return it as a function of arrays that workers compute.

        The function raises:
            ModelError: a worker cannot open the model.
            UnavailableError: the workers are lost, or every worker is that gets the same images.
            CancelledError: the stage ends.
        """
        sent = SentModel.put(runtime, model.files(runtime))

        def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            answer: NDArray[np.float32] = self._workers.ask("answer", sent, images, what=f"{len(images)} images")
            return answer

        return forward

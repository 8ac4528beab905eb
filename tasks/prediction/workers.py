"""Classifies on the workers of a Ray. The stage reads the images and writes the answers, as it does alone.

    stage: source -> threads -- encoded images -->  worker 1, 2, ...: decode, classify
                             <-- probabilities --

Nodes of a cluster get the model and the images from the stage; they need no password of MLflow or a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.cluster.workers import Workers, grouped, workers_of
from tasks.contract.prediction import PredictRequest
from tasks.prediction.classifier import Outcome
from tasks.prediction.worker import PredictionWorker
from tasks.serving.model_worker import SentModel
from tasks.serving.runtimes import ONNX
from tasks.settings import Settings

SENT_BYTES = 4 * 2**20  # images go to a worker when they are so many bytes, or the batch is complete


@contextmanager
def classifying_on_workers(
    request: PredictRequest, file: Path, shape: tuple[int, int, int], settings: Settings
) -> Iterator[OnWorkers]:
    """Start the workers of a request on a Ray, and end them with the block.

    Args:
        request: how many, and how large.
        file: the ONNX file, checked.
        shape: of its images, channels, side, side.
        settings: the cluster, if there is one.

    Raises:
        RequestError: the machines have too little room for the workers.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    content = file.read_bytes()

    def start_with(cpus: int) -> tuple[object, ...]:
        return SentModel.put(ONNX, {file.name: content}), shape, cpus

    with workers_of(
        *(PredictionWorker, start_with, request.workers, request.worker_cpus, settings),
        held_bytes=len(content),
        call_bytes=2 * SENT_BYTES,
    ) as workers:
        yield OnWorkers(workers)


class OnWorkers:
    """Classifies encoded images on workers."""

    def __init__(self, workers: Workers) -> None:
        """Take workers that have a `classify` each."""
        self._workers = workers

    @property
    def at_once(self) -> int:
        """Threads that keep all workers busy."""
        return self._workers.at_once

    def classify(self, images: Iterable[bytes]) -> list[Outcome]:
        """Return what came of each image, in their order.

        Raises:
            UnavailableError: the workers are lost, or every worker is that gets the same images.
            CancelledError: the stage ends.
        """
        return [
            outcome
            for sent in grouped(images, SENT_BYTES)
            for outcome in self._workers.ask("classify", sent, what=f"{len(sent)} images")
        ]

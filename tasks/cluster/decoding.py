"""Decodes images on the workers of a Ray. The stage reads the source and keeps the pixels, as it does alone.

    stage: source -> threads -- encoded images -->  worker 1, 2, ...: open, decode
                             <---- pixels ---------

Nodes of a cluster get the images from the stage; they need no password of MLflow or a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.cluster.decoding_worker import DecodingWorker
from tasks.cluster.workers import Workers, grouped, workers_of
from tasks.settings import Settings
from tasks.vision.data.decoder import Outcome
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.records import Content

# Images go to a worker when they are so many bytes, or their pixels will be, or the batch is complete.
SENT_BYTES, ANSWER_BYTES = 4 * 2**20, 8 * 2**20


@contextmanager
def decoding_on_workers(workers: int, cpus: int | None, shaping: Shaping, settings: Settings) -> Iterator[OnWorkers]:
    """Start workers that decode on a Ray, and end them with the block.

    Args:
        workers: how many.
        cpus: cores of each; None: one on a cluster.
        shaping: what becomes of the images.
        settings: the cluster, if there is one.

    Raises:
        RequestError: the machines have too little room for the workers.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """

    def start_with(cpus: int) -> tuple[int, ...]:
        return shaping.channels, shaping.size, cpus

    with workers_of(
        *(DecodingWorker, start_with, workers, cpus, settings), held_bytes=0, call_bytes=SENT_BYTES + ANSWER_BYTES
    ) as started:
        yield OnWorkers(started, max(1, ANSWER_BYTES // math.prod((shaping.channels, shaping.size, shaping.size))))


class OnWorkers:
    """Decodes images on workers."""

    def __init__(self, workers: Workers, most: int) -> None:
        """Take workers that have a `decode` each, and how many images each gets at most at a time."""
        self._workers, self._most = workers, most

    @property
    def at_once(self) -> int:
        """Threads that keep all workers busy."""
        return self._workers.at_once

    @property
    def thread_bytes(self) -> int:
        """Memory that each of these threads takes at most, in bytes."""
        return SENT_BYTES + ANSWER_BYTES

    def decode(self, contents: Sequence[Content]) -> Iterator[Outcome]:
        """Yield what came of each image, in their order.

        Raises:
            UnavailableError: the workers are lost, or every worker is that gets the same images.
            CancelledError: the stage ends.
        """
        for sent in grouped(contents, SENT_BYTES, self._most):
            outcomes, decoded = self._workers.ask("decode", sent, what=f"{len(sent)} images")
            pixels = iter(decoded)
            for outcome in outcomes:
                yield outcome if outcome.fault else outcome._replace(pixels=next(pixels))

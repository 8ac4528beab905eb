"""Classifies on the workers of a Ray. The stage reads the images and writes the answers, as it does alone.

    stage: source -> threads -- encoded images -->  worker 1, 2, ...: decode, classify
                             <-- probabilities --

Nodes of a cluster get the model and the images from the stage; they need no password of MLflow or a store. Images that
a worker had when it was lost go to another one; the stage has their answers once, or it does not have them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import mlflow
import ray
from ray.exceptions import RayError, RayTaskError

from tasks.cluster.session import ray_with
from tasks.contract.prediction import PredictRequest
from tasks.distributed.room import require_room
from tasks.errors import UnavailableError
from tasks.prediction.classifier import Outcome
from tasks.prediction.worker import PredictionWorker
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus

SENT_BYTES = 4 * 2**20  # images go to a worker when they are so many bytes, or the batch is complete
TRIES = 4  # for the same images: what ends every worker that gets it ends the stage
ABSENT_SECONDS = 600.0  # without any worker; a cluster may have to start a machine
QUIET_SECONDS = 20.0
END_SECONDS = 10.0

log = logging.getLogger("tasks.predict")


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
    most = request.workers * (1 + (request.worker_cpus or max(1, available_cpus() // request.workers)))
    require = partial(require_room, workers=request.workers, cpus=request.worker_cpus)
    with ray_with(require, 1, settings, len(content) + 2 * most * SENT_BYTES) as share:
        stored = ray.put(content)
        actor: Any = ray.remote(PredictionWorker).options(
            num_cpus=share.cpus, max_concurrency=share.cpus, scheduling_strategy="SPREAD"
        )
        start = partial(actor.remote, stored, file.name, shape, share.cpus)
        workers = OnWorkers(start, request.workers, share.cpus + 1)  # a call more than threads, so that none waits
        try:
            yield workers
            tags = {"workers": str(request.workers), "machines": ", ".join(sorted(workers.machines))[:5000]}
            mlflow.set_tags({f"pipeline.{name}": value for name, value in tags.items()})
        finally:
            workers.end()


class _Call(NamedTuple):
    """One call that a worker takes, or why it takes none."""

    place: int
    actor: Any
    error: BaseException | None = None


class OnWorkers:
    """Sends images to workers and waits for the answers; the thread that sends them does nothing else meanwhile.

    A worker that is lost is replaced, wherever Ray has room. (Were it Ray that starts it again, one that cannot start
    would be started forever.)
    """

    def __init__(self, start: Callable[[], Any], workers: int, calls: int) -> None:
        """Start so many actors by `start`, each of which gets so many calls at a time."""
        self._start, self._calls = start, calls
        self._free: Queue[_Call] = Queue()
        self._lock = threading.Lock()
        self._failures = [0] * workers  # starts in a row that failed
        self._busy, self._seen, self._spoke = 0, time.monotonic(), time.monotonic()
        self._ended = False
        self.machines: set[str] = set()
        """Where workers have been so far."""
        self._actors = [start() for _ in range(workers)]
        for _ in range(calls):
            for place in range(workers):
                self._offer(place)

    @property
    def at_once(self) -> int:
        """Threads that keep all workers busy."""
        return len(self._actors) * self._calls

    def classify(self, images: Iterable[bytes]) -> list[Outcome]:
        """Return what came of each image, in their order.

        Raises:
            UnavailableError: the workers are lost, or every worker is that gets the same images.
            CancelledError: the stage ends.
        """
        return [outcome for sent in _sent(images) for outcome in self._ask(sent)]

    def end(self) -> None:
        """End the workers, and the waiting of threads for them."""
        with self._lock:
            self._ended = True
            for actor in self._actors:
                ray.kill(actor)
        until = time.monotonic() + END_SECONDS
        while self._busy and time.monotonic() < until:  # Ray is shut down after this
            time.sleep(0.01)

    def _ask(self, images: list[bytes]) -> list[Outcome]:
        lost: Exception | None = None
        for _ in range(TRIES):
            call = self._take()
            try:
                outcomes: list[Outcome] = ray.get(call.actor.classify.remote(images))
            except RayTaskError:  # raised by the worker, which is well
                self._free.put(call)
                raise
            except RayError as error:
                lost = error
                self._replace(call._replace(error=error), started=True)
            else:
                self._free.put(call)
                return outcomes
            finally:
                with self._lock:
                    self._busy, self._seen = self._busy - 1, time.monotonic()
        raise UnavailableError(
            f"{TRIES} workers in a row were lost with the same {len(images)} images, the last one because: "
            f"{_first_words(lost)}; where it was memory, give the workers more"
        ) from lost

    def _take(self) -> _Call:
        """Wait for a worker that takes a call."""
        while not self._ended:
            try:
                call = self._free.get(timeout=1)
            except Empty:
                self._require_any()
                continue
            if call.error is None:
                with self._lock:
                    self._busy += 1
                return call
            if self._failures[call.place] >= TRIES:
                self._free.put(call)  # for the other threads
                raise UnavailableError(
                    f"a worker cannot start: {_last_line(call.error)}; a cluster's nodes need the image `tune` of this "
                    "stage's release"
                ) from call.error
            self._replace(call, started=False)
        raise CancelledError

    def _replace(self, call: _Call, *, started: bool) -> None:
        """Start another worker in place of one that is lost, unless another thread has done it."""
        with self._lock:
            if self._ended:
                raise CancelledError
            if self._actors[call.place] is call.actor:
                ray.kill(call.actor)  # it may be alive, and only out of reach
                self._actors[call.place] = self._start()
                self._failures[call.place] += not started
                log.warning("a worker was lost (%s); another one gets its images", _first_words(call.error))
        self._offer(call.place)

    def _offer(self, place: int) -> None:
        """Have a worker get calls as soon as it answers."""
        actor = self._actors[place]

        def answered(done: Future[str]) -> None:
            error = done.exception()
            if error is None:
                self.machines.add(done.result())
                self._failures[place] = 0
            self._free.put(_Call(place, actor, error))

        actor.ready.remote().future().add_done_callback(answered)

    def _require_any(self) -> None:
        with self._lock:
            now, absent = time.monotonic(), 0.0 if self._busy else time.monotonic() - self._seen
            speak = absent and now - max(self._spoke, self._seen) > QUIET_SECONDS
            self._spoke = now if speak else self._spoke
        if absent > ABSENT_SECONDS:
            raise UnavailableError(
                f"none of {len(self._actors)} workers has been there for {ABSENT_SECONDS:.0f} s; see `ray status`, "
                "start the nodes of the cluster again, or lower workers or worker_cpus"
            )
        if speak:
            log.info("waiting for %d workers", len(self._actors))


def _sent(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group images into what is sent together."""
    group: list[bytes] = []
    held = 0
    for image in images:
        group.append(image)
        held += len(image)
        if held >= SENT_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _first_words(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300]


def _last_line(error: BaseException) -> str:
    """Where Ray passes a traceback on, the error itself."""
    return str(error).strip().splitlines()[-1].strip()[:300]

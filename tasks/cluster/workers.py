"""Workers of a Ray that answer calls of the stage. The stage waits for the answers, and replaces a worker that is lost.

What a worker had when it was lost goes to another one; the stage has its answer once, or it does not have it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from queue import Empty, Queue
from typing import Any, NamedTuple, TypeVar

import mlflow
import ray
from ray.exceptions import RayError, RayTaskError

from tasks.cluster.answer import answer
from tasks.cluster.room import require_room
from tasks.cluster.session import ray_with
from tasks.errors import PipelineError, UnavailableError
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus
from tasks.vision.data.records import Content, bytes_of

TRIES = 4  # for the same call: what ends every worker that gets it ends the stage
ABSENT_SECONDS = 600.0  # without any worker; a cluster may have to start a machine
QUIET_SECONDS = 20.0
END_SECONDS = 10.0
MOST_CHARACTERS = 5000  # of a tag

T = TypeVar("T", bound=Content)

log = logging.getLogger("tasks.workers")


@contextmanager
def workers_of(
    kind: type,
    start_with: Callable[[int], Sequence[Any]],
    workers: int,
    cpus: int | None,
    settings: Settings,
    *,
    held_bytes: int,
    call_bytes: int,
) -> Iterator[Workers]:
    """Start workers on a Ray, and end them with the block. Tags of the run say how many, and on which machines.

    Args:
        kind: class of the actors. Its method `ready` returns the name of the machine, once it can answer calls.
        start_with: given the cores of a worker, returns the arguments that each actor starts with.
        workers: how many.
        cpus: cores of each; None: one on a cluster, else those of this machine, divided.
        settings: the cluster, if there is one.
        held_bytes: that `start_with` puts into Ray's memory.
        call_bytes: that a call and its answer take there.

    Raises:
        RequestError: the machines have too little room for the workers.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    calls = workers * (1 + (cpus or max(1, available_cpus() // workers)))  # at the same time
    nbytes = held_bytes + calls * call_bytes
    with ray_with(partial(require_room, workers=workers, cpus=cpus), 1, settings, nbytes) as share:
        actor: Any = ray.remote(kind).options(
            num_cpus=share.cpus, max_concurrency=share.cpus, scheduling_strategy="SPREAD"
        )
        start = partial(actor.remote, *start_with(share.cpus))
        started = Workers(start, workers, share.cpus + 1)  # a call more than threads, so that none waits
        try:
            yield started
            tags = {"workers": str(workers), "machines": ", ".join(sorted(started.machines))[:MOST_CHARACTERS]}
            mlflow.set_tags({f"pipeline.{name}": value for name, value in tags.items()})
        finally:
            started.end()


def grouped(images: Iterable[T], most_bytes: int, most: int | None = None) -> Iterator[list[T]]:
    """Group images into what is sent together: a group ends with the image that makes it so many bytes, or so many."""
    group: list[T] = []
    held = 0
    for image in images:
        group.append(image)
        held += bytes_of(image)
        if held >= most_bytes or len(group) == most:
            yield group
            group, held = [], 0
    if group:
        yield group


class _Call(NamedTuple):
    """One call that a worker takes, or why it takes none."""

    place: int
    actor: Any
    error: BaseException | None = None


class Workers:
    """Sends calls to workers and waits for the answers; the thread that sends one does nothing else meanwhile.

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

    def ask(self, method: str, *arguments: Any, what: str) -> Any:
        """Return what the method of a worker returns.

        Args:
            method: name of the method.
            arguments: that it gets.
            what: is sent with the call, for errors.

        Raises:
            PipelineError: as the worker raised it.
            UnavailableError: the workers are lost, or every worker is that gets the same call.
            CancelledError: the stage ends.
        """
        lost: Exception | None = None
        for _ in range(TRIES):
            call = self._take()
            try:
                found = answer(getattr(call.actor, method).remote(*arguments))
            except (PipelineError, RayTaskError):  # raised by the worker, which is well
                self._free.put(call)
                raise
            except RayError as error:
                lost = error
                self._replace(call._replace(error=error), started=True)
            else:
                self._free.put(call)
                return found
            finally:
                with self._lock:
                    self._busy, self._seen = self._busy - 1, time.monotonic()
        raise UnavailableError(
            f"{TRIES} workers in a row were lost with the same {what}, the last one because: "
            f"{_first_words(lost)}; where it was memory, give the workers more"
        ) from lost

    def end(self) -> None:
        """End the workers, and the waiting of threads for them."""
        with self._lock:
            self._ended = True
            for actor in self._actors:
                ray.kill(actor)
        until = time.monotonic() + END_SECONDS
        while self._busy and time.monotonic() < until:  # Ray is shut down after this
            time.sleep(0.01)

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
                log.warning("a worker was lost (%s); another one gets its work", _first_words(call.error))
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


def _first_words(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300]


def _last_line(error: BaseException) -> str:
    """Where Ray passes a traceback on, the error itself."""
    return str(error).strip().splitlines()[-1].strip()[:300]

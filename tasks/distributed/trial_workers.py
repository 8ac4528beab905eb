"""Workers of a trial, on the Ray that the search runs on: each in a bundle of the trial's own placement group.

So Tune counts their cores and GPUs as it does those of any trial, and takes them back when the trial ends. A worker
that is lost ends the trial, which Tune starts again from its checkpoint where it does so for a lost machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # compiled

from tasks.cluster.answer import answer
from tasks.cluster.room import Share
from tasks.cluster.shared_gold import SharedGold
from tasks.distributed.relay import Relay
from tasks.distributed.worker import Job, train
from tasks.distributed.workers import Running, Work
from tasks.errors import UnavailableError

NOTICE_SECONDS = 5.0  # in which the end of a worker is known after an error of one that waited for it
EVERY_EPOCH = 0.0  # seconds between states: a trial is saved, and goes on elsewhere, at the epoch it has told


@dataclass(frozen=True)
class TrialWorkers:
    """The workers of each trial of a search.

    Attributes:
        count: how many there are; the placement group of a trial has as many bundles first, one for each.
        share: what each of them has for itself.
        gold: the images.
        patience: seconds that one waits for another.
    """

    count: int
    share: Share
    gold: SharedGold
    patience: float
    field = "trial_workers"

    @contextmanager
    def started(self, work: Work) -> Iterator[Running]:
        """Start them on the Ray of this process, which is a trial; afterwards they are killed. See `Workers`."""
        group: Any = ray.util.get_current_placement_group()
        options = {"num_cpus": self.share.cpus, "num_gpus": self.share.gpus}
        beside: Any = ray.remote(Relay).options(num_cpus=0, scheduling_strategy=_bundle(group, 0))
        relay = beside.remote(work.state)
        workers: list[Any] = [
            ray.remote(TrialWorker).options(scheduling_strategy=_bundle(group, rank), **options).remote()
            for rank in range(self.count)
        ]
        try:
            job = Job(
                work.recipe,
                self.gold,
                None if work.trained is None else ray.put(dict(work.trained)),
                self.share,
                sync_batch_norm=False,
                micro_batches=work.micro_batches,
                relay=relay,
                state_seconds=EVERY_EPOCH,
            )
            with _told_lost():
                address = answer(workers[0].listen.remote())
            place = (address, self.count, self.patience)
            yield _Training([worker.train.remote(job, rank, *place) for rank, worker in enumerate(workers)], relay)
        finally:
            for actor in (*workers, relay):
                ray.kill(actor)


class TrialWorker:
    """The process of one worker."""

    _store: Any = None

    def listen(self) -> tuple[str, int]:
        """Open the store at which the workers meet; return its address."""
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def train(self, job: Job, rank: int, address: tuple[str, int], workers: int, patience: float) -> None:
        """Meet the others, and train to the end; see `worker.train`.

        Args:
            job: what to do.
            rank: of this worker; the first has opened the store.
            address: of the store.
            workers: how many there are.
            patience: seconds that one waits for another.
        """
        timeout = timedelta(seconds=patience)
        store = self._store or TCPStore(*address, is_master=False, timeout=timeout)
        backend = "nccl" if job.share.gpus else "gloo"
        distributed.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=workers)
        train(job)


class _Training:
    """The workers of one trial at work."""

    def __init__(self, calls: Sequence[Any], relay: Any) -> None:
        self.relay = relay
        self._calls = list(calls)

    def require_running(self) -> None:
        """Raise what ended a worker, if one has ended before the training.

        Raises:
            UnavailableError: one was lost.
        """
        if not _errors(self._calls, 0):
            if not ray.wait(self._calls, num_returns=len(self._calls), timeout=0)[1]:
                raise RuntimeError("the workers of the trial ended before the training did")
            return
        # Those that waited for a worker that was lost fail too: its end is the cause.
        errors = sorted(_errors(self._calls, NOTICE_SECONDS), key=lambda error: not isinstance(error, RayActorError))
        with _told_lost():
            raise errors[0]


@contextmanager
def _told_lost() -> Iterator[None]:
    try:
        yield
    except RayActorError as error:
        raise UnavailableError(
            f"a worker of the trial was lost: {' '.join(str(error).split())[:300]}; where it was memory, lower "
            "batch_size or give it more"
        ) from error


def _errors(calls: Sequence[Any], seconds: float) -> list[Exception]:
    """Return the errors of calls that end within so many seconds."""
    found: list[Exception] = []
    for call in ray.wait(list(calls), num_returns=len(calls), timeout=seconds)[0]:
        try:
            answer(call)
        except (RayActorError, RayTaskError) as error:
            found.append(error)
    return found


def _bundle(group: PlacementGroup, index: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)

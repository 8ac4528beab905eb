"""How many trials fit on the machines of a Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tasks.cluster.environment import environment
from tasks.cluster.room import fitting, require_room
from tasks.cluster.session import Nodes, ray_with
from tasks.contract.training import TuneRequest
from tasks.errors import RequestError
from tasks.settings import Settings

LOWER = "trial_workers, trial_cpus or trial_gpus"


@contextmanager
def ray_for(request: TuneRequest, settings: Settings, gold_bytes: int | None) -> Iterator[int]:
    """Start or join a Ray with room for the request's trials, and clean it up afterwards.

    Args:
        request: what is searched.
        settings: the cluster's address and token, if there is one.
        gold_bytes: that Ray's memory must hold; None: an actor hands out files of gold, and takes a slot.

    Yields how many trials may run at a time.

    Raises:
        RequestError: there is too little room for one trial.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    rights = (request.concurrent_trials or request.trials) + (gold_bytes is None)
    with (
        ray_with(partial(require_trials, request=request), rights, settings, gold_bytes or 0) as slots,
        # As many trials may wait for a process: one by one, short trials would end before the next process is ready.
        environment({"TUNE_MAX_PENDING_TRIALS_PG": str(slots)}),
    ):
        yield slots


def require_trials(nodes: Nodes, address: str | None, request: TuneRequest) -> int:
    """Return how many trials may run at a time on machines with these resources, of the cluster at `address` if any.

    Raises:
        RequestError: no machine has the CPUs or GPUs of one trial, or all together lack those of its workers.
    """
    workers, cpus, gpus = request.trial_workers, request.trial_cpus, request.trial_gpus
    for name, kind, asked in (("trial_cpus", "CPU", cpus), ("trial_gpus", "GPU", gpus)):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if asked > most:
            where = f"machine of the cluster at {address}" if address else "machine"
            fix = "" if address else ", or set RAY_ADDRESS to a cluster that has as many"
            there = f"{most:g} {kind}{'' if most == 1 else 's'}"
            raise RequestError(f"{name}={asked:g} is more than any {where} has ({there}); lower it{fix}")
    if workers > 1:
        require_room(nodes, address, workers, int(cpus), int(gpus), LOWER, "trial_workers")
    room = fitting(nodes, cpus, gpus) // workers
    return max(1, min(room, request.trials, request.concurrent_trials or room))

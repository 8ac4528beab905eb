"""How many trials fit on the machines of a Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tasks.cluster.environment import environment
from tasks.cluster.session import Nodes, ray_with
from tasks.contract.training import TuneRequest
from tasks.errors import RequestError
from tasks.settings import Settings


@contextmanager
def ray_for(request: TuneRequest, settings: Settings, gold_bytes: int | None) -> Iterator[int]:
    """Start or join a Ray with room for the request's trials, and clean it up afterwards.

    Args:
        request: what is searched.
        settings: the cluster's address and token, if there is one.
        gold_bytes: that Ray's memory must hold; None: an actor hands out files of gold, and takes a slot.

    Yields how many trials may run at a time.

    Raises:
        RequestError: no machine there has the CPUs or GPUs of one trial.
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    rights = (request.concurrent_trials or request.trials) + (gold_bytes is None)
    with (
        ray_with(partial(require_room, request=request), rights, settings, gold_bytes or 0) as slots,
        # As many trials may wait for a process: one by one, short trials would end before the next process is ready.
        environment({"TUNE_MAX_PENDING_TRIALS_PG": str(slots)}),
    ):
        yield slots


def require_room(nodes: Nodes, address: str | None, request: TuneRequest) -> int:
    """Return how many trials may run at a time on machines with these resources, of the cluster at `address` if any.

    Raises:
        RequestError: no machine has the CPUs or GPUs of one trial.
    """
    for name, kind, asked in (
        ("trial_cpus", "CPU", request.trial_cpus),
        ("trial_gpus", "GPU", request.trial_gpus),
    ):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if asked > most:
            where = f"machine of the cluster at {address}" if address else "machine"
            fix = "" if address else ", or set RAY_ADDRESS to a cluster that has as many"
            there = f"{most:g} {kind}{'' if most == 1 else 's'}"
            raise RequestError(f"{name}={asked:g} is more than any {where} has ({there}); lower it{fix}")
    fitting = sum(
        min(
            int(node.get("CPU", 0) / request.trial_cpus),
            int(node.get("GPU", 0) / request.trial_gpus) if request.trial_gpus else request.trials,
        )
        for node in nodes
    )
    return max(1, min(fitting, request.trials, request.concurrent_trials or fitting))

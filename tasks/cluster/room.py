"""Whether workers fit on the machines of a Ray, and what each of them gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tasks.cluster.session import Nodes
from tasks.errors import RequestError

LOWER = "workers or worker_cpus"


@dataclass(frozen=True)
class Share:
    """What each worker has for itself.

    Attributes:
        cpus: cores.
        gpus: 0 or 1.
    """

    cpus: int
    gpus: int


def require_room(
    nodes: Nodes,
    address: str | None,
    workers: int,
    cpus: int | None,
    gpus: int = 0,
    lower: str = LOWER,
    field: str = "workers",
) -> Share:
    """Return what each worker gets on machines with these resources, of the cluster at `address` if any.

    Args:
        nodes: the machines.
        address: of the cluster.
        workers: how many there are to be.
        cpus: of each; None: one on a cluster, else this machine's, divided.
        gpus: of each.
        lower: the fields of the request that say so.
        field: the one that says how many workers.

    Raises:
        RequestError: there is not enough for all of them.
    """
    if cpus is None:
        cpus = 1 if address else max(1, int(sum(node.get("CPU", 0) for node in nodes)) // workers)
    room = fitting(nodes, cpus, gpus)
    if room < workers:
        where = f"the cluster at {address}" if address else "this machine"
        machines = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes if node.get("CPU", 0)
        )
        fix = "" if address else ", or set RAY_ADDRESS to a cluster that has more"
        raise RequestError(
            f"{field}={workers} with {cpus} CPUs and {gpus} GPUs each are more than {where} has room for: {room} "
            f"({machines or 'no CPUs'}); lower {lower}{fix}"
        )
    return Share(cpus, gpus)


def fitting(nodes: Nodes, cpus: float, gpus: float) -> int:
    """Return how many processes with `cpus` cores and `gpus` GPUs each fit on machines with these resources."""
    return sum(
        min(int(node.get("CPU", 0) / cpus), int(node.get("GPU", 0) / gpus) if gpus else sys.maxsize) for node in nodes
    )

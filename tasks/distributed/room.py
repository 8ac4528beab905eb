"""Whether the workers of a training fit on the machines of a Ray."""

from __future__ import annotations

from tasks.cluster.room import Share, require_room
from tasks.cluster.session import Nodes
from tasks.contract.training import TrainRequest

LOWER = "workers, worker_cpus or worker_gpus"


def require_workers(nodes: Nodes, address: str | None, request: TrainRequest) -> Share:
    """Return what each worker of a training gets; see `require_room`."""
    gpus = request.worker_gpus
    if gpus is None:
        wanted = request.device in ("auto", "cuda")
        gpus = int(wanted and sum(int(node.get("GPU", 0)) for node in nodes) >= request.workers)
    return require_room(nodes, address, request.workers, request.worker_cpus, gpus, LOWER)

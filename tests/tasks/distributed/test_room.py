"""Whether workers fit on the machines of a Ray, and what each gets."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.cluster.room import Share
from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TrainRequest
from tasks.distributed.room import require_workers
from tasks.errors import RequestError

SMALL, LARGE, STAGE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}, {"memory": 1e9}  # the stage joins without CPUs


@pytest.mark.parametrize(
    ("fields", "address", "share"),
    [
        ({"worker_cpus": None}, None, Share(4, 1)),  # as many GPUs as workers
        ({"worker_cpus": None}, "head:6379", Share(1, 1)),
        ({"worker_cpus": None, "worker_gpus": 0}, "head:6379", Share(1, 0)),
        ({"workers": 4}, "head:6379", Share(1, 0)),
        ({"device": "cpu"}, "head:6379", Share(1, 0)),
        ({"workers": 3, "worker_cpus": 3, "worker_gpus": 0}, "head:6379", None),
        ({"worker_gpus": 1, "workers": 3}, "head:6379", None),
    ],
)
def test_each_worker_gets_its_share_of_the_machines(
    fields: dict[str, Any], address: str | None, share: Share | None
) -> None:
    nodes = [SMALL, STAGE, LARGE] if address else [LARGE]
    task = TaskIdentity(dag_id="daily", dag_run_id="first", task_id="train")
    default = {"task": task, "prepare_run_id": "0" * 32, "workers": 2, "worker_cpus": 1}
    asked = TrainRequest.model_validate(default | fields)
    if share is not None:
        assert require_workers(nodes, address, asked) == share
        return
    with pytest.raises(RequestError) as refused:
        require_workers(nodes, address, asked)
    assert str(refused.value).endswith(
        "are more than the cluster at head:6379 has room for: 2 (2 CPUs, 0 GPUs; 8 CPUs, 2 GPUs); lower workers, "
        "worker_cpus or worker_gpus"
    )

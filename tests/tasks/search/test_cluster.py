"""How many trials of a search fit on the machines of a Ray; the tune stage's tests start a real one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from ray._private import services
from ray._private.node import Node

from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TuneRequest
from tasks.errors import RequestError
from tasks.search import cluster
from tasks.search.cluster import require_room

SMALL, LARGE, STAGE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, {"memory": 1e9}  # the stage joins without CPUs


def request(**changes: Any) -> TuneRequest:
    task = TaskIdentity(dag_id="weekly", dag_run_id="first", task_id="tune")
    return TuneRequest.model_validate({"task": task, "prepare_run_id": "1" * 32, "trials": 20} | changes)


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({}, 10),
        ({"trial_cpus": 3}, 2),
        ({"trial_gpus": 0.5}, 2),
        ({"concurrent_trials": 3}, 3),
        ({"trials": 2}, 2),
    ],
)
def test_as_many_trials_run_at_a_time_as_fit_and_are_asked_for(changes: dict[str, Any], slots: int) -> None:
    assert require_room([SMALL, STAGE, LARGE], request(**changes), None) == slots


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trial_cpus": 4096}, "trial_cpus=4096 is more than any machine has (8 CPUs)"),
        ({"trial_cpus": 9}, "trial_cpus=9 is more than any machine has (8 CPUs)"),  # 10 in all
        ({"trial_gpus": 2}, "trial_gpus=2 is more than any machine has (1 GPU)"),
    ],
)
def test_more_than_one_machine_has_is_refused_with_what_there_is(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as refused:
        require_room([SMALL, STAGE, LARGE], request(**changes), None)
    assert str(refused.value) == f"{told}; lower it, or set RAY_ADDRESS to a cluster that has as many"


def test_a_clusters_machines_are_named_by_its_address() -> None:
    with pytest.raises(RequestError) as refused:
        require_room([SMALL], request(trial_cpus=3), "head:6379")
    assert str(refused.value) == (
        "trial_cpus=3 is more than any machine of the cluster at head:6379 has (2 CPUs); lower it"
    )


class Registers:
    """Stands in for Ray's question about the node that starts: it is unknown until it was asked for `after` times."""

    def __init__(self, after: float) -> None:
        self.after, self.asked = after, 0

    def __call__(self, address: str, node: str) -> dict[str, str]:
        self.asked += 1
        if self.asked <= self.after:
            raise RuntimeError(f"{node} at {address} has not registered")
        return {"node": node}


def test_ray_waits_longer_for_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    registers = Registers(after=3)
    monkeypatch.setattr(services, "get_node", registers)
    with cluster._patience():
        assert services.get_node("address", "n") == {"node": "n"}
    assert registers.asked == 4
    assert services.get_node is registers


def test_ray_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "get_node", Registers(after=float("inf")))
    monkeypatch.setattr(cluster, "START_SECONDS", 0.2)
    with cluster._patience(), pytest.raises(RuntimeError, match="n at address has not registered"):
        services.get_node("address", "n")


def test_ray_still_asks_in_the_way_that_the_patience_is_for() -> None:
    source = inspect.getsource(Node.__init__)
    assert "ray._private.services.get_node(" in source
    assert "raylet_start_wait_time_s = 30" in source, "if it is a setting now, set it"

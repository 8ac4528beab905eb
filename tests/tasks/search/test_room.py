"""How many trials of a search fit on the machines of a Ray; the tune stage's tests start a real one."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TuneRequest
from tasks.errors import RequestError
from tasks.search.room import require_trials

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
        ({"trial_workers": 3}, 3),  # nine of ten cores
        ({"trial_workers": 2, "trial_cpus": 3}, 1),
        ({"trial_workers": 2, "concurrent_trials": 4}, 4),
    ],
)
def test_as_many_trials_run_at_a_time_as_fit_and_are_asked_for(changes: dict[str, Any], slots: int) -> None:
    assert require_trials([SMALL, STAGE, LARGE], None, request(**changes)) == slots


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
        require_trials([SMALL, STAGE, LARGE], None, request(**changes))
    assert str(refused.value) == f"{told}; lower it, or set RAY_ADDRESS to a cluster that has as many"


def test_a_clusters_machines_are_named_by_its_address() -> None:
    with pytest.raises(RequestError) as refused:
        require_trials([SMALL], "head:6379", request(trial_cpus=3))
    assert str(refused.value) == (
        "trial_cpus=3 is more than any machine of the cluster at head:6379 has (2 CPUs); lower it"
    )


def test_workers_that_do_not_fit_on_all_machines_together_are_refused() -> None:
    with pytest.raises(RequestError) as refused:
        require_trials([SMALL, STAGE, LARGE], "head:6379", request(trial_workers=2, trial_gpus=1))
    assert str(refused.value) == (
        "trial_workers=2 with 1 CPUs and 1 GPUs each are more than the cluster at head:6379 has room for: 1 "
        "(2 CPUs, 0 GPUs; 8 CPUs, 1 GPUs); lower trial_workers, trial_cpus or trial_gpus"
    )

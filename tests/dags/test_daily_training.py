from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.contract.compression import METHODS
from tasks.contract.stages import STAGES, parameters
from tests.dags import model_tasks

Parse = Callable[..., dict[str, Any]]
STAGE_TASKS = ["prepare", "train", *model_tasks.STAGES]
COMPRESSION = {"compression.compress", *model_tasks.in_group("compression", model_tasks.ORDER)}


@pytest.fixture(scope="module")
def facts(parse: Parse) -> dict[str, Any]:
    return dict(parse("daily_training", AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG="5")["facts"])


def test_runs_at_once_are_as_many_as_airflow_is_told(facts: dict[str, Any]) -> None:
    assert facts["max_active_runs"] == 5


def test_the_stages_follow_each_other_and_the_branch_guards_what_needs_a_new_champion(facts: dict[str, Any]) -> None:
    order = {task: downstream for task, (downstream, *_) in facts["tasks"].items()}
    first = "compression.compress"
    assert order == {
        "prepare": ["compression.evaluate", "evaluate", "train"],
        "train": [first, "evaluate", "register"],
        **model_tasks.ORDER,
        "promoted": [first, "deploy"],
        "deploy": [first],
        **model_tasks.in_group("compression", {"compress": ["evaluate", "register"], **model_tasks.ORDER}),
    }


def test_the_form_has_every_parameter_of_every_stage(facts: dict[str, Any]) -> None:
    wanted = {name for stage in [*STAGE_TASKS, "compress"] for name in parameters(STAGES[stage].request)}
    # `resources` is the launcher's own, no stage reads it; what is compressed is this run's model.
    assert set(facts["params"]) == wanted - {"method", "trained_by"} | {"compress", "resources"}


def test_the_form_asks_whether_to_compress_and_how_in_one_field(facts: dict[str, Any]) -> None:
    asked = facts["params"]["compress"]
    assert (asked["section"], asked["title"], asked["type"]) == ("Compression", "Compress", "string")
    assert asked["enum"] == ["none", *METHODS]
    assert facts["sections"] == ["Data", "Training", "Promotion", "Deployment", "Compression", "Machine", "Reuse"]


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What came of real runs of the DAG, by scenario; one process for all, most of its time is Airflow's start."""
    scenarios = {
        "promoted": {"conf": {"epochs": 3, "dataset": "digits"}, "stub": {}},
        "not promoted": {"stub": {"refused": "register"}},
        "not served": {"stub": {"skipped": "the service follows 'dogs'"}},
        "permanent": {"stub": {"fail": "train", "code": 65}},
        "passing": {"stub": {"fail": "train", "code": 69, "once": True}},
        "misspelt": {"conf": {"epoch": 3}, "stub": {}},
    }
    return run_scenarios(scenarios)


def test_a_run_goes_from_data_to_service(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["promoted"]
    assert run["state"] == "success"
    assert [task for task, _ in run["calls"]] == STAGE_TASKS
    assert {task for task, (state, _) in run["tasks"].items() if state != "success"} == COMPRESSION
    assert {run["tasks"][task][0] for task in COMPRESSION} == {"skipped"}


def test_upstream_run_ids_and_the_form_arrive_with_their_types(runs: dict[str, dict[str, Any]]) -> None:
    requests = dict(runs["promoted"]["calls"])
    # Run IDs that Python would read as numbers, and a version that must stay one.
    assert requests["train"]["prepare_run_id"] == "1" * 32
    assert requests["evaluate"]["train_run_id"] == "12e45" + "0" * 27
    assert requests["deploy"]["version"] == 12
    assert requests["train"]["epochs"] == 3
    assert requests["prepare"]["source"] is None
    assert requests["train"]["task"]["task_id"] == "train"


def test_each_task_links_to_its_mlflow_run(runs: dict[str, dict[str, Any]]) -> None:
    links = runs["promoted"]["links"]
    assert {task for task, link in links.items() if link.strip('"')} == set(STAGE_TASKS)
    assert links["prepare"].strip('"') == f"http://127.0.0.1:5000/#/experiments/1/runs/{'1' * 32}"


def test_deploy_is_skipped_when_nothing_was_promoted(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["not promoted"]
    assert (run["state"], run["tasks"]["deploy"][0]) == ("success", "skipped")
    assert [task for task, _ in run["calls"]] == STAGE_TASKS[:-1]


def test_deploy_is_skipped_and_keeps_its_link_when_it_had_nothing_to_do(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["not served"]
    assert (run["state"], run["tasks"]["deploy"]) == ("success", ["skipped", 1])
    assert [task for task, _ in run["calls"]] == STAGE_TASKS
    assert run["results"]["deploy"]["skipped"] == "the service follows 'dogs'"


def test_a_failure_that_will_repeat_is_not_retried(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["permanent"]
    assert (run["state"], run["tasks"]["train"]) == ("failed", ["failed", 1])
    assert run["tasks"]["deploy"][0] == "upstream_failed"
    assert [task for task, _ in run["calls"]] == ["prepare", "train"]
    assert run["links"]["train"].strip('"') == ""


def test_a_failure_that_may_pass_is_retried_with_the_same_identity(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["passing"]
    assert (run["state"], run["tasks"]["train"]) == ("success", ["success", 2])
    first, second = [request for task, request in run["calls"] if task == "train"]
    assert first == second


def test_a_misspelt_parameter_fails_before_any_stage_starts(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["misspelt"]
    assert (run["state"], run["tasks"]["prepare"], run["calls"]) == ("failed", ["failed", 1], [])

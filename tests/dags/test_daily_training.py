from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.stages import STAGES, parameters

Parse = Callable[..., dict[str, Any]]
DAGS = sorted(file.stem for file in (Path(__file__).resolve().parents[2] / "dags").glob("*.py"))
STAGE_TASKS = ["prepare", "train", "evaluate", "register", "deploy"]


@pytest.fixture(scope="module")
def parsed(parse: Parse) -> dict[str, Any]:
    return parse("daily_training", AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG="5")


@pytest.mark.parametrize("runtime", ["local", "docker"])
@pytest.mark.parametrize("dag", DAGS)
def test_each_dag_file_parses_within_a_second_without_torch_and_mlflow(parse: Parse, dag: str, runtime: str) -> None:
    server = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "v3ry-l0ng",
    }
    found = parse(dag, **server, PIPELINE_RUNTIME=runtime)
    if found["seconds"] >= 1:  # a busy machine makes CPU time longer, too
        found = parse(dag, **server, PIPELINE_RUNTIME=runtime)
    assert found["errors"] == []
    assert found["dags"] == [dag]
    assert found["banned"] == []
    assert found["seconds"] < 1, found


def test_only_the_plugin_module_is_loaded_as_a_plugin(parsed: dict[str, Any]) -> None:
    assert "vision_mlops" in parsed["plugins"]
    assert parsed["bare"] == []


def test_runs_at_once_are_as_many_as_airflow_is_told_and_only_one_of_them_registers(parsed: dict[str, Any]) -> None:
    assert parsed["facts"]["max_active_runs"] == 5
    assert [task for task, pool in parsed["facts"]["pools"].items() if pool == "champion"] == ["register"]


def test_the_schedule_is_daily_and_fixed(parsed: dict[str, Any]) -> None:
    facts = parsed["facts"]
    assert (facts["catchup"], facts["schedule"]) == (False, "@daily")
    assert (facts["start"], facts["timezone"]) == ("2026-01-01 00:00:00+00:00", "UTC")
    assert facts["doc"]
    assert facts["tags"]


def test_the_stages_follow_each_other_and_the_branch_guards_deploy(parsed: dict[str, Any]) -> None:
    order = {task: downstream for task, (downstream, *_) in parsed["facts"]["tasks"].items()}
    assert order == {
        "prepare": ["train"],
        "train": ["evaluate"],
        "evaluate": ["approve", "register"],
        "approve": ["register"],
        "register": ["deploy", "promoted"],
        "promoted": ["deploy"],
        "deploy": [],
    }


def test_each_task_is_retried_with_back_off_and_ends_in_time(parsed: dict[str, Any]) -> None:
    for task, (_, retries, back_off, timeout) in parsed["facts"]["tasks"].items():
        assert (retries >= 1, back_off) == (True, True), task
        assert 0 < timeout < parsed["facts"]["timeout"], task


def test_the_deploy_task_outlasts_the_longest_wait_that_may_be_asked_for(parsed: dict[str, Any]) -> None:
    longest = parameters(STAGES["deploy"].request)["deploy_timeout"]["maximum"]
    assert parsed["facts"]["tasks"]["deploy"][3] > longest


def test_the_form_has_every_parameter_of_every_stage(parsed: dict[str, Any]) -> None:
    wanted = {name for stage in STAGE_TASKS for name in parameters(STAGES[stage].request)}
    assert set(parsed["facts"]["params"]) == wanted | {"resources"}  # the launcher's own, no stage reads it


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What came of real runs of the DAG, by scenario; one process for all, most of its time is Airflow's start."""
    scenarios = {
        "promoted": {"conf": {"epochs": 3, "dataset": "digits"}, "stub": {}},
        "not promoted": {"stub": {"promoted": False}},
        "not served": {"stub": {"skipped": "the service follows 'dogs'"}},
        "permanent": {"stub": {"fail": "train", "code": 65}},
        "passing": {"stub": {"fail": "train", "code": 69, "once": True}},
        "misspelt": {"conf": {"epoch": 3}, "stub": {}},
    }
    return run_scenarios(scenarios)


def test_a_run_goes_from_data_to_service(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["promoted"]
    assert run["state"] == "success"
    assert [stage for stage, _ in run["calls"]] == STAGE_TASKS
    assert {state for state, _ in run["tasks"].values()} == {"success"}


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
    assert set(links) == set(STAGE_TASKS)
    assert links["prepare"].strip('"') == f"http://127.0.0.1:5000/#/experiments/1/runs/{'1' * 32}"


def test_deploy_is_skipped_when_nothing_was_promoted(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["not promoted"]
    assert (run["state"], run["tasks"]["deploy"][0]) == ("success", "skipped")
    assert [stage for stage, _ in run["calls"]] == STAGE_TASKS[:-1]


def test_deploy_is_skipped_and_keeps_its_link_when_it_had_nothing_to_do(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["not served"]
    assert (run["state"], run["tasks"]["deploy"]) == ("success", ["skipped", 1])
    assert [stage for stage, _ in run["calls"]] == STAGE_TASKS
    assert run["results"]["deploy"]["skipped"] == "the service follows 'dogs'"


def test_a_failure_that_will_repeat_is_not_retried(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["permanent"]
    assert (run["state"], run["tasks"]["train"]) == ("failed", ["failed", 1])
    assert run["tasks"]["deploy"][0] == "upstream_failed"
    assert [stage for stage, _ in run["calls"]] == ["prepare", "train"]
    assert run["links"]["train"].strip('"') == ""


def test_a_failure_that_may_pass_is_retried_with_the_same_identity(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["passing"]
    assert (run["state"], run["tasks"]["train"]) == ("success", ["success", 2])
    first, second = [request for stage, request in run["calls"] if stage == "train"]
    assert first == second


def test_a_misspelt_parameter_fails_before_any_stage_starts(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["misspelt"]
    assert (run["state"], run["tasks"]["prepare"], run["calls"]) == ("failed", ["failed", 1], [])

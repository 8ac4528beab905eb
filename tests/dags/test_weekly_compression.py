from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.contract.stages import STAGES, parameters

STAGE_TASKS = ["compress", "evaluate", "register", "deploy"]
Parse = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def facts(parse: Parse) -> dict[str, Any]:
    return dict(parse("weekly_compression")["facts"])


def test_the_schedule_is_weekly_when_the_trainings_of_the_night_are_over(facts: dict[str, Any]) -> None:
    assert (facts["catchup"], facts["schedule"]) == (False, "0 12 * * 0")
    assert facts["timeout"] < 7 * 24 * 3600  # before the next one
    assert facts["doc"]


def test_what_is_compressed_is_judged_as_what_is_trained(facts: dict[str, Any]) -> None:
    order = {task: downstream for task, (downstream, *_) in facts["tasks"].items()}
    assert order == {
        "compress": ["evaluate"],
        "evaluate": ["approve", "register"],
        "approve": ["register"],
        "register": ["deploy", "promoted"],
        "promoted": ["deploy"],
        "deploy": [],
    }


def test_each_task_is_retried_with_back_off_and_ends_in_time(facts: dict[str, Any]) -> None:
    for task, (_, retries, back_off, timeout) in facts["tasks"].items():
        assert (retries >= 1, back_off) == (True, True), task
        assert 0 < timeout < facts["timeout"], task


def test_the_form_has_every_parameter_of_its_stages(facts: dict[str, Any]) -> None:
    wanted = {name for stage in STAGE_TASKS for name in parameters(STAGES[stage].request)}
    assert set(facts["params"]) == wanted | {"resources"}
    assert facts["sections"] == ["Compression", "Promotion", "Deployment", "Machine", "Reuse"]
    assert facts["params"]["method"]["enum"] == ["int8"]


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What came of real runs with a stub for the stages, by scenario."""
    weekly: dict[str, Any] = {"dag": "weekly_compression", "stub": {}}
    return run_scenarios(
        {
            "promoted": weekly | {"conf": {"calibration_images": 50}},
            "refused": weekly | {"stub": {"promoted": False}, "conf": {"trained_by": "5" * 32}},
        }
    )


def test_the_champion_is_compressed_and_the_result_judged_and_deployed(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["promoted"]
    assert run["state"] == "success"
    assert [stage for stage, _ in run["calls"]] == STAGE_TASKS
    requests = dict(run["calls"])
    assert (requests["compress"]["trained_by"], requests["compress"]["calibration_images"]) == (None, 50)
    assert requests["evaluate"]["train_run_id"] == "8" * 32


def test_what_does_not_pay_is_not_deployed_and_a_run_can_be_named(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["refused"]
    assert run["state"] == "success"
    requests = dict(run["calls"])
    assert list(requests) == ["compress", "evaluate", "register"]
    assert requests["compress"]["trained_by"] == "5" * 32
    assert requests["evaluate"]["train_run_id"] == "8" * 32  # the compressed one

"""The tasks that make a model smaller: every week of the champion, and in a daily run where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.contract.compression import METHODS
from tasks.contract.messages import TaskIdentity
from tasks.contract.stages import STAGES, parameters
from tests.dags import model_tasks

TRAINING = ["prepare", "train", *model_tasks.STAGES]
COMPRESSION = ["compress", *model_tasks.STAGES]
IN_GROUP = [f"compression.{stage}" for stage in COMPRESSION]
TRAINED, COMPRESSED = "12e45" + "0" * 27, "8" * 32  # the runs that the stub for the stages answers with
PRUNED = {"pruning_ratio": 0.3, "compression_epochs": 4}
Parse = Callable[..., dict[str, Any]]
Run = dict[str, Any]


@pytest.fixture(scope="module")
def weekly(parse: Parse) -> dict[str, Any]:
    return dict(parse("weekly_compression")["facts"])


def test_what_is_compressed_is_judged_as_what_is_trained(weekly: dict[str, Any]) -> None:
    order = {task: downstream for task, (downstream, *_) in weekly["tasks"].items()}
    assert order == {"compress": ["evaluate", "register"], **model_tasks.ORDER}


def test_the_form_has_every_parameter_of_its_stages(weekly: dict[str, Any]) -> None:
    wanted = {name for stage in COMPRESSION for name in parameters(STAGES[stage].request)}
    assert set(weekly["params"]) == wanted | {"resources"}
    assert weekly["sections"] == ["Compression", "Promotion", "Deployment", "Machine", "Reuse"]
    assert weekly["params"]["method"]["enum"] == [*METHODS]


def test_the_form_takes_how_much_can_be_pruned(weekly: dict[str, Any], parse: Parse) -> None:
    for params in (weekly["params"], parse("daily_training")["facts"]["params"]):
        asked = params["pruning_ratio"]
        assert (asked["section"], asked["title"], asked["type"]) == ("Compression", "Pruning Ratio", "number")
        assert (asked["exclusiveMinimum"], asked["exclusiveMaximum"]) == (0, 1)


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, Run]]) -> dict[str, Run]:
    """What came of real runs with a stub for the stages, by scenario."""
    weekly: dict[str, Any] = {"dag": "weekly_compression", "stub": {}}
    daily: dict[str, Any] = {"stub": {}, "conf": {"compress": "int8", "calibration_images": 50}}
    return run_scenarios(
        {
            "weekly": weekly | {"conf": {"calibration_images": 50}},
            "weekly, pruned": weekly | {"conf": {**PRUNED, "method": "prune"}},
            "weekly, refused": weekly | {"stub": {"refused": "register"}, "conf": {"trained_by": "5" * 32}},
            "daily": daily,
            "daily, not promoted": daily | {"stub": {"refused": "register"}},
            "daily, not served": daily | {"stub": {"skipped": "the service follows 'dogs'"}},
            "daily, does not pay": daily | {"stub": {"refused": "compression.register"}},
            "daily, cannot be compressed": daily | {"stub": {"fail": "compression.compress", "code": 70}},
            "daily, pruned": daily | {"conf": {**PRUNED, "compress": "prune"}},
            "daily, killed": daily | {"stub": {"fail": "compression.evaluate", "code": 137, "once": True}},
        }
    )


def calls(run: Run) -> list[str]:
    return [task for task, _ in run["calls"]]


def states(run: Run, group: str = "") -> dict[str, str]:
    """The state of each task of a group, without its prefix; or of the tasks that are in no group."""
    found = {task.rpartition("."): state for task, (state, _) in run["tasks"].items()}
    return {name: state for (within, _, name), state in found.items() if within == group}


def test_the_champion_is_compressed_and_the_result_judged_and_deployed(runs: dict[str, Run]) -> None:
    run = runs["weekly"]
    assert run["state"] == "success"
    assert calls(run) == COMPRESSION
    requests = dict(run["calls"])
    assert (requests["compress"]["trained_by"], requests["compress"]["calibration_images"]) == (None, 50)
    assert requests["evaluate"]["train_run_id"] == COMPRESSED


def test_what_does_not_pay_is_not_deployed_and_a_run_can_be_named(runs: dict[str, Run]) -> None:
    run = runs["weekly, refused"]
    assert run["state"] == "success"
    assert calls(run) == ["compress", "evaluate", "register"]
    requests = dict(run["calls"])
    assert requests["compress"]["trained_by"] == "5" * 32
    assert requests["evaluate"]["train_run_id"] == COMPRESSED


def test_a_daily_run_compresses_what_it_has_promoted_and_deployed(runs: dict[str, Run]) -> None:
    run = runs["daily"]
    assert run["state"] == "success"
    assert calls(run) == [*TRAINING, *IN_GROUP]
    assert {state for state, _ in run["tasks"].values()} == {"success"}
    requests = dict(run["calls"])
    compress = requests["compression.compress"]
    # The model of this run, not a champion that may have changed meanwhile.
    assert (compress["trained_by"], compress["method"], compress["calibration_images"]) == (TRAINED, "int8", 50)
    assert requests["evaluate"]["train_run_id"] == TRAINED
    assert requests["compression.evaluate"]["train_run_id"] == COMPRESSED


@pytest.mark.parametrize("dag", ["weekly", "daily"])
def test_a_run_that_prunes_says_how_much(runs: dict[str, Run], dag: str) -> None:
    run = runs[f"{dag}, pruned"]
    assert run["state"] == "success"
    (asked,) = (request for task, request in run["calls"] if task.endswith("compress"))
    assert {name: asked[name] for name in ("method", *PRUNED)} == {"method": "prune", **PRUNED}


def test_two_tasks_of_one_stage_are_never_taken_for_each_other(runs: dict[str, Run]) -> None:
    tasks = [TaskIdentity.model_validate(request["task"]) for _, request in runs["daily"]["calls"]]
    assert len({task.key for task in tasks}) == len(TRAINING) + len(COMPRESSION)
    assert [TaskIdentity.task_of(task.key) for task in tasks] == [*TRAINING, *IN_GROUP]
    links = runs["daily"]["links"]
    assert links["compression.compress"].strip('"').endswith(f"/runs/{COMPRESSED}")
    assert set(links) == {*TRAINING, *IN_GROUP}


def test_nothing_is_compressed_without_a_promotion(runs: dict[str, Run]) -> None:
    run = runs["daily, not promoted"]
    assert run["state"] == "success"
    assert calls(run) == ["prepare", "train", "evaluate", "register"]
    assert set(states(run, "compression").values()) == {states(run)["deploy"]} == {"skipped"}


def test_a_champion_that_the_service_does_not_follow_is_compressed_too(runs: dict[str, Run]) -> None:
    run = runs["daily, not served"]
    assert run["state"] == "success"
    assert calls(run) == [*TRAINING, *IN_GROUP]
    skipped = {task for task, (state, _) in run["tasks"].items() if state == "skipped"}
    assert skipped == {"deploy", "compression.deploy"}


def test_the_champion_stays_in_service_where_compression_does_not_pay(runs: dict[str, Run]) -> None:
    run = runs["daily, does not pay"]
    assert run["state"] == "success"
    assert calls(run) == [*TRAINING, *IN_GROUP[:-1]]
    assert (states(run)["deploy"], states(run, "compression")["deploy"]) == ("success", "skipped")


def test_a_run_that_cannot_compress_fails_once_its_champion_is_in_service(runs: dict[str, Run]) -> None:
    run = runs["daily, cannot be compressed"]
    assert run["state"] == "failed"
    assert calls(run) == [*TRAINING, "compression.compress"]  # it would fail the same way again
    assert set(states(run).values()) == {"success"}
    assert states(run, "compression") == dict.fromkeys(model_tasks.ORDER, "upstream_failed") | {"compress": "failed"}


def test_the_second_task_of_a_stage_is_retried_with_its_own_identity(runs: dict[str, Run]) -> None:
    run = runs["daily, killed"]
    assert (run["state"], run["tasks"]["compression.evaluate"]) == ("success", ["success", 2])
    first, second = [request for task, request in run["calls"] if task == "compression.evaluate"]
    assert first == second
    assert calls(run).count("evaluate") == 1

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract.stages import STAGES, parameters
from tests.dags import model_tasks

ROOT = Path(__file__).resolve().parents[2]
STAGE_TASKS = ["prepare", "tune", "train", *model_tasks.STAGES]
Parse = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def facts(parse: Parse) -> dict[str, Any]:
    return dict(parse("weekly_tuning")["facts"])


def test_the_search_comes_before_the_training_and_the_branch_guards_deploy(facts: dict[str, Any]) -> None:
    order = {task: downstream for task, (downstream, *_) in facts["tasks"].items()}
    assert order == {
        "prepare": ["evaluate", "train", "tune"],
        "tune": ["train"],
        "train": ["evaluate", "register"],
        **model_tasks.ORDER,
    }


def test_a_tasks_token_outlives_the_longest_search(facts: dict[str, Any]) -> None:
    longest = max(timeout for *_, timeout in facts["tasks"].values())
    compose = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text())
    valid = int(compose["x-airflow-environment"]["AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME"])
    assert valid > longest
    # Sooner, Redis would hand a search that goes on to a second worker.
    queue = compose["x-celery-environment"]["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"]
    assert int(queue) == valid
    assert f'JWT_EXPIRATION_TIME": "{valid}"' in (ROOT / "deploy" / "ui.py").read_text()


def test_the_form_has_every_parameter_but_those_that_the_search_gives(facts: dict[str, Any]) -> None:
    wanted = {name for stage in STAGE_TASKS for name in parameters(STAGES[stage].request)}
    assert set(facts["params"]) == wanted - {"tuned_by", "hyperparameters"} | {"resources"}


def test_the_form_asks_in_a_sensible_order(facts: dict[str, Any]) -> None:
    assert facts["sections"] == ["Data", "Training", "Tuning", "Promotion", "Deployment", "Machine", "Reuse"]
    sections = {name: param["section"] for name, param in facts["params"].items()}
    assert sections["learning_rate"] == sections["epochs"] == "Training"
    assert sections["trials"] == sections["search_space"] == "Tuning"


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What came of real runs with a stub for the stages, by scenario."""
    weekly: dict[str, Any] = {"dag": "weekly_tuning", "stub": {}}
    nothing: dict[str, Any] = {"search_space": {"learning_rate": []}}
    return run_scenarios(
        {
            "promoted": weekly | {"conf": {"trials": 7, "epochs": 3, "momentum": 0.8}},
            "killed": weekly | {"stub": {"fail": "tune", "code": 137, "once": True}},
            "nothing to search": weekly | {"conf": nothing},
            "tuned by hand": {"stub": {}, "conf": {"tuned_by": "3" * 32}},
            "not tuned": {"stub": {}},
        }
    )


def test_training_works_with_what_the_search_found(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["promoted"]
    assert run["state"] == "success"
    assert [stage for stage, _ in run["calls"]] == STAGE_TASKS
    requests = dict(run["calls"])
    assert requests["tune"]["prepare_run_id"] == requests["train"]["prepare_run_id"] == "1" * 32
    assert requests["tune"]["trials"] == 7
    assert (requests["train"]["tuned_by"], requests["train"]["model"]) == ("7" * 32, "resnet18")
    for stage in ("tune", "train"):
        assert (requests[stage]["epochs"], requests[stage]["momentum"]) == (3, 0.8)


def test_a_training_links_to_the_search_its_hyperparameters_came_from(runs: dict[str, dict[str, Any]]) -> None:
    weekly = runs["promoted"]["tuned"]
    assert list(weekly) == ["train"]
    assert weekly["train"].strip('"') == f"http://127.0.0.1:5000/#/experiments/1/runs/{'7' * 32}"
    assert runs["tuned by hand"]["tuned"]["train"].strip('"').endswith("3" * 32)


def test_without_a_search_there_is_no_link(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["not tuned"]["tuned"]["train"].strip('"') == ""


def test_a_killed_search_is_tried_again_with_the_same_identity(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["killed"]
    assert (run["state"], run["tasks"]["tune"]) == ("success", ["success", 2])
    first, second = [request for stage, request in run["calls"] if stage == "tune"]
    assert first == second


def test_a_search_space_without_a_choice_fails_before_any_stage_starts(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["nothing to search"]
    assert (run["state"], run["tasks"]["prepare"], run["calls"]) == ("failed", ["failed", 1], [])

"""Models trained at once by the one scheduler, one of them by two runs: two models, five in the long tests."""

from __future__ import annotations

import subprocess
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import requests

from tests.conftest import LONG
from tests.dags import model_tasks
from tests.stack.airflow_stack.conftest import DAG, MODEL, STAGES, User, ended, trigger
from tests.stack.conftest import PROJECT, Stack

pytestmark = [pytest.mark.docker, *([pytest.mark.long] if LONG else [])]
# Each network with a registered model of its own, one of them twice with other hyperparameters ...
ALONE: dict[str, dict[str, Any]] = {"five-small": {"model": "mobilenet_v3_small"}}
if LONG:
    ALONE |= {
        "five-adamw": {"model": "fast_cnn", "optimizer": "adamw", "learning_rate": 0.003},
        "five-large": {"model": "mobilenet_v3_large"},
        "five-resnet": {"model": "resnet18", "batch_size": 256},
    }
# ... and two runs of a fifth model, either of which may come first.
SHARED = "five-fast"
RIVALS: dict[str, dict[str, Any]] = {
    f"{SHARED}-{seed}": {"model": "fast_cnn", "seed": seed, "registered_model": SHARED} for seed in (1, 2)
}
# One epoch on digits is no good model; what is shown is the way through the pipeline.
CHEAP = {"dataset": "digits", "epochs": 1, "min_accuracy": 0, "min_macro_f1": 0, "max_calibration_error": 1}
WELL = dict.fromkeys([*STAGES, "approve", "promoted"], "success") | {"deploy": "skipped"}
WELL |= dict.fromkeys(["compression.compress", *model_tasks.in_group("compression", model_tasks.ORDER)], "skipped")


@pytest.fixture(scope="module", autouse=True)
def unpaused(admin: User) -> None:
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200


@pytest.fixture(scope="module")
def together(admin: User, unpaused: None) -> dict[str, tuple[str, dict[str, Any]]]:
    """State and tasks of the runs, triggered in one go."""
    for name, conf in (ALONE | RIVALS).items():
        trigger(admin, name, **{"registered_model": name} | CHEAP | conf)
    return {name: ended(admin, name, 600) for name in ALONE | RIVALS}


def states(outcome: tuple[str, dict[str, Any]]) -> dict[str, str]:
    return {task: instance["state"] for task, instance in outcome[1].items()}


def mlflow(airflow: Stack, method: str, path: str, **body: Any) -> dict[str, Any]:
    send = {"params": body} if method == "GET" else {"json": body}
    url = f"{airflow.mlflow_url}/api/2.0/mlflow/{path}"
    answer = requests.request(method, url, auth=airflow.login, timeout=120, **send)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def runs_of(airflow: Stack, dag_run: str) -> list[dict[str, str]]:
    """The tags of every MLflow run of a DAG run, and its status among them."""
    experiment = mlflow(airflow, "GET", "experiments/get-by-name", experiment_name=MODEL)["experiment"]
    found = mlflow(
        airflow, "POST", "runs/search",
        experiment_ids=[experiment["experiment_id"]], filter=f"tags.`pipeline.dag_run_id` = '{dag_run}'",
    )  # fmt: skip
    return [{t["key"]: t["value"] for t in r["data"]["tags"]} | {"status": r["info"]["status"]} for r in found["runs"]]


@pytest.mark.parametrize("name", ALONE)
def test_a_run_ends_well_and_deploy_leaves_the_service_alone(together: dict[str, Any], name: str) -> None:
    assert together[name][0] == "success"
    assert states(together[name]) == WELL


def test_only_one_task_at_a_time_moves_a_champion(together: dict[str, Any], admin: User) -> None:
    assert admin.ask("GET", "/api/v2/pools/champion").json()["slots"] == 1
    assert {tasks["register"]["pool"] for _, tasks in together.values()} == {"champion"}


def test_they_ran_together(together: dict[str, Any], admin: User) -> None:
    runs = [admin.ask("GET", f"{DAG}/dagRuns/{name}").json() for name in together]
    last_start, first_end = max(run["start_date"] for run in runs), min(run["end_date"] for run in runs)
    assert last_start < first_end
    trained = [tasks["train"] for _, tasks in together.values()]
    beside = [sum(other["start_date"] <= one["start_date"] < other["end_date"] for other in trained) for one in trained]
    assert max(beside) >= (3 if LONG else 2), trained


def test_they_registered_one_after_the_other(together: dict[str, Any]) -> None:
    times = sorted((tasks["register"]["start_date"], tasks["register"]["end_date"]) for _, tasks in together.values())
    for (_, end), (start, _) in pairwise(times):
        assert end <= start


@pytest.mark.parametrize("name", ALONE)
def test_each_model_has_one_version_and_it_is_champion(together: dict[str, Any], airflow: Stack, name: str) -> None:
    found = mlflow(airflow, "GET", "model-versions/search", filter=f"name = '{name}'")["model_versions"]
    assert [version["version"] for version in found] == ["1"]
    champion = mlflow(airflow, "GET", "registered-models/alias", name=name, alias="champion")["model_version"]
    assert champion["version"] == "1"
    (trained,) = (tags for tags in runs_of(airflow, name) if tags["pipeline.stage"] == "train")
    assert trained["pipeline.logged_model_uri"] == champion["source"]


@pytest.mark.parametrize("name", ALONE)
def test_mlflow_has_each_stage_once(together: dict[str, Any], airflow: Stack, name: str) -> None:
    found = runs_of(airflow, name)
    assert Counter(tags["pipeline.stage"] for tags in found) == dict.fromkeys(["pipeline", *STAGES], 1)
    assert {tags["status"] for tags in found} == {"FINISHED"}


def test_all_trained_on_the_same_images(together: dict[str, Any], airflow: Stack) -> None:
    prints = {
        t["pipeline.fingerprint"] for name in together for t in runs_of(airflow, name) if "pipeline.fingerprint" in t
    }
    assert len(prints) == 1


@pytest.mark.parametrize("name", ALONE | RIVALS)
def test_no_stage_container_is_left(together: dict[str, Any], name: str) -> None:
    filters = [f"--filter={what}" for what in (f"network={PROJECT}", f"label=pipeline.dag_run_id={name}")]
    done = subprocess.run(["docker", "ps", "--all", "--quiet", *filters], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_a_skipped_deploy_says_why_and_keeps_its_link(together: dict[str, Any], admin: User) -> None:
    instance = f"{DAG}/dagRuns/five-small/taskInstances/deploy"
    result = admin.ask("GET", f"{instance}/xcomEntries/return_value?deserialize=true").json()["value"]
    assert f"follows '{MODEL}'" in result["skipped"]
    assert "SERVING_REGISTERED_MODEL=five-small" in result["skipped"]
    assert result["run_id"] in admin.ask("GET", f"{instance}/links").json()["extra_links"]["MLflow run"]


def test_two_runs_of_one_model_leave_one_champion_that_beat_the_other(together: dict[str, Any], airflow: Stack) -> None:
    """Whoever comes second met the new champion in evaluate, or is refused: no verdict on a former one counts."""
    outcomes = [together[name] for name in RIVALS]
    registered = [tasks for _, tasks in outcomes if tasks["register"]["state"] == "success"]
    refused = [tasks for _, tasks in outcomes if tasks["register"]["state"] != "success"]
    assert registered
    assert all((t["register"]["state"], t["register"]["try_number"]) == ("failed", 1) for t in refused)
    assert WELL in [states(outcome) for outcome in outcomes]
    versions = mlflow(airflow, "GET", "model-versions/search", filter=f"name = '{SHARED}'")["model_versions"]
    assert len(versions) == len(registered)
    champion = mlflow(airflow, "GET", "registered-models/alias", name=SHARED, alias="champion")["model_version"]
    assert champion["version"] in {version["version"] for version in versions}

"""Five runs of five models at once on the one scheduler, and two of the same model."""

from __future__ import annotations

import subprocess
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import requests

from tests.stack.airflow_stack.conftest import DAG, MODEL, STAGES, User, ended, trigger
from tests.stack.conftest import PROJECT, Stack

pytestmark = pytest.mark.docker
# Each network with a registered model of its own, and one network a second time with other hyperparameters.
RUNS: dict[str, dict[str, Any]] = {
    "five-fast": {"model": "fast_cnn"},
    "five-adamw": {"model": "fast_cnn", "optimizer": "adamw", "learning_rate": 0.003},
    "five-small": {"model": "mobilenet_v3_small"},
    "five-large": {"model": "mobilenet_v3_large"},
    "five-resnet": {"model": "resnet18", "batch_size": 256},
}
# One epoch on digits is no good model; what is shown is the way through the pipeline.
CHEAP = {"dataset": "digits", "epochs": 1, "min_accuracy": 0, "min_macro_f1": 0}


@pytest.fixture(scope="module", autouse=True)
def unpaused(admin: User) -> None:
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200


@pytest.fixture(scope="module")
def together(admin: User, unpaused: None) -> dict[str, tuple[str, dict[str, Any]]]:
    """State and tasks of the five runs, triggered in one go."""
    for name, conf in RUNS.items():
        trigger(admin, name, registered_model=name, **CHEAP, **conf)
    return {name: ended(admin, name, 600) for name in RUNS}


def mlflow(airflow: Stack, method: str, path: str, **body: Any) -> dict[str, Any]:
    send = {"params": body} if method == "GET" else {"json": body}
    url = f"{airflow.mlflow_url}/api/2.0/mlflow/{path}"
    answer = requests.request(method, url, auth=airflow.login, timeout=30, **send)
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


def test_all_five_end_well_and_deploy_leaves_the_service_alone(together: dict[str, Any]) -> None:
    for name, (state, tasks) in together.items():
        states = {task: instance["state"] for task, instance in tasks.items()}
        assert state == "success", (name, states)
        assert states == dict.fromkeys([*STAGES, "promoted"], "success") | {"deploy": "skipped"}, name


def test_they_ran_together(together: dict[str, Any], admin: User) -> None:
    runs = [admin.ask("GET", f"{DAG}/dagRuns/{name}").json() for name in together]
    last_start, first_end = max(run["start_date"] for run in runs), min(run["end_date"] for run in runs)
    assert last_start < first_end
    trained = [tasks["train"] for _, tasks in together.values()]
    assert max(task["start_date"] for task in trained) < max(task["end_date"] for task in trained)
    assert any(one["start_date"] < other["start_date"] < one["end_date"] for one in trained for other in trained), (
        trained
    )


def test_they_registered_one_after_the_other(together: dict[str, Any]) -> None:
    times = sorted((tasks["register"]["start_date"], tasks["register"]["end_date"]) for _, tasks in together.values())
    for (_, end), (start, _) in pairwise(times):
        assert end <= start


@pytest.mark.parametrize("name", RUNS)
def test_each_model_has_one_version_and_it_is_champion(together: dict[str, Any], airflow: Stack, name: str) -> None:
    found = mlflow(airflow, "GET", "model-versions/search", filter=f"name = '{name}'")["model_versions"]
    assert [version["version"] for version in found] == ["1"]
    champion = mlflow(airflow, "GET", "registered-models/alias", name=name, alias="champion")["model_version"]
    assert champion["version"] == "1"
    (trained,) = (tags for tags in runs_of(airflow, name) if tags["pipeline.stage"] == "train")
    assert trained["pipeline.logged_model_uri"] == champion["source"]


@pytest.mark.parametrize("name", RUNS)
def test_mlflow_has_each_stage_once(together: dict[str, Any], airflow: Stack, name: str) -> None:
    found = runs_of(airflow, name)
    assert Counter(tags["pipeline.stage"] for tags in found) == dict.fromkeys(["pipeline", *STAGES], 1)
    assert {tags["status"] for tags in found} == {"FINISHED"}


def test_all_five_trained_on_the_same_images(together: dict[str, Any], airflow: Stack) -> None:
    prints = {t["pipeline.fingerprint"] for name in RUNS for t in runs_of(airflow, name) if "pipeline.fingerprint" in t}
    assert len(prints) == 1


@pytest.mark.parametrize("name", RUNS)
def test_no_stage_container_is_left(together: dict[str, Any], name: str) -> None:
    filters = [f"--filter={what}" for what in (f"network={PROJECT}", f"label=pipeline.dag_run_id={name}")]
    done = subprocess.run(["docker", "ps", "--all", "--quiet", *filters], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_a_skipped_deploy_says_why_and_keeps_its_link(together: dict[str, Any], admin: User) -> None:
    instance = f"{DAG}/dagRuns/five-fast/taskInstances/deploy"
    result = admin.ask("GET", f"{instance}/xcomEntries/return_value?deserialize=true").json()["value"]
    assert f"follows '{MODEL}'" in result["skipped"]
    assert "SERVING_REGISTERED_MODEL=five-fast" in result["skipped"]
    assert result["run_id"] in admin.ask("GET", f"{instance}/links").json()["extra_links"]["MLflow run"]


def test_two_runs_of_one_model_leave_one_champion_that_beat_the_other(airflow: Stack, admin: User) -> None:
    """Whoever comes second met the new champion in evaluate, or is refused: no verdict on a former one counts."""
    for seed in (1, 2):
        trigger(admin, f"same-{seed}", registered_model="same", seed=seed, **CHEAP)
    outcomes = [ended(admin, f"same-{seed}", 600) for seed in (1, 2)]
    versions = mlflow(airflow, "GET", "model-versions/search", filter="name = 'same'")["model_versions"]
    registered = [tasks for _, tasks in outcomes if tasks["register"]["state"] == "success"]
    assert len(versions) == len(registered) >= 1
    refused = [tasks for _, tasks in outcomes if tasks["register"]["state"] != "success"]
    assert all((t["register"]["state"], t["register"]["try_number"]) == ("failed", 1) for t in refused)
    champion = mlflow(airflow, "GET", "registered-models/alias", name="same", alias="champion")["model_version"]
    assert champion["version"] in {version["version"] for version in versions}

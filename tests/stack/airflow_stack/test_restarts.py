"""Services die while the scheduler runs the daily DAG; the runs end well, nothing is lost or doubled.

`make test` kills one service of each kind in one run; the long tests kill every service once, in three runs.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.stack.airflow_stack.conftest import DAG, FILE, MODEL, STAGES, User, ended, trigger
from tests.stack.conftest import PROJECT, Stack

pytestmark = pytest.mark.docker
STATE = ("postgres", "s3", "mlflow")
# Per run: when a stage has said this, these die.
PLANS: dict[str, list[tuple[str, str, list[str]]]] = {
    "one-of-each-dies": [
        ("prepare", "raw:", ["mlflow"]),
        ("train", "epoch 2/", ["airflow-scheduler"]),
        ("evaluate", "", ["docker-socket-proxy"]),
    ],
}
LONG_PLANS: dict[str, list[tuple[str, str, list[str]]]] = {
    "work-dies": [
        ("prepare", "", ["airflow-dag-processor", "airflow-triggerer"]),
        ("train", "epoch 2/", ["airflow-scheduler"]),
    ],
    "state-dies": [
        ("prepare", "raw:", ["postgres"]),
        ("train", "epoch 2/", ["s3"]),
        ("evaluate", "", ["mlflow"]),
    ],
    "way-dies": [
        ("train", "epoch 2/", ["airflow-api-server"]),
        ("evaluate", "", ["docker-socket-proxy"]),
        ("register", "", ["serving"]),
    ],
}

EVERY_PLAN = PLANS | LONG_PLANS


@dataclass(frozen=True)
class Ended:
    """What a DAG run left."""

    run_id: str
    state: str
    tasks: dict[str, dict[str, Any]]


def container(service: str) -> str:
    return f"{PROJECT}-{service}-1" if service in STATE else f"{PROJECT}-work-{service}-1"


def inspected(service: str) -> dict[str, Any]:
    command = ["docker", "inspect", container(service)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]


def kill(service: str) -> None:
    """Kill every process of a service at once, as a machine out of memory would.

    From inside, because `docker kill` counts as a wish of the user, after which the restart policy does nothing. The
    signal goes to all but the first process (the kernel spares that one from its own), which ends with its child.
    """
    user = ["--user", "postgres"] if service == "postgres" else []  # its server's user; nobody has the capability KILL
    before = inspected(service)["RestartCount"]
    command = ["docker", "exec", *user, container(service), "sh", "-c", "kill -KILL -1"]
    subprocess.run(command, capture_output=True, text=True)
    deadline = time.monotonic() + 1800
    while inspected(service)["RestartCount"] == before:
        assert time.monotonic() < deadline, f"{service} was not killed"
        time.sleep(0.2)


def wait_for(run_id: str, stage: str, text: str, seconds: float = 900) -> None:
    """Wait until the container of a stage runs and has said something."""
    labels = [f"label=pipeline.dag_run_id={run_id}", f"label=pipeline.stage={stage}"]
    filters = [part for label in labels for part in ("--filter", label)]
    deadline = time.monotonic() + seconds
    while True:
        found = subprocess.run(["docker", "ps", "--quiet", *filters], capture_output=True, text=True).stdout.split()
        for name in found:
            said = subprocess.run(["docker", "logs", name], capture_output=True, text=True)
            if text in said.stdout + said.stderr:
                return
        assert time.monotonic() < deadline, f"{stage} of {run_id} did not say {text!r}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def client(airflow: Stack) -> Any:
    user, password = airflow.login
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", user)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
        yield MlflowClient(airflow.mlflow_url)


@pytest.fixture(scope="module", params=[*PLANS, *(pytest.param(name, marks=pytest.mark.long) for name in LONG_PLANS)])
def survived(request: pytest.FixtureRequest, airflow: Stack, admin: User) -> Ended:
    """A DAG run during which services died; each run trains another model."""
    run_id = str(request.param)
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200
    # More epochs than the other tests, so that there is time to die in.
    trigger(admin, run_id, epochs=10, seed=1 + list(EVERY_PLAN).index(run_id))
    for stage, text, services in EVERY_PLAN[run_id]:
        wait_for(run_id, stage, text)
        for service in services:
            kill(service)
    state, tasks = ended(admin, run_id, seconds=600)
    return Ended(run_id, state, tasks)


def runs_of(client: MlflowClient, run_id: str) -> list[Run]:
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`pipeline.dag_run_id` = '{run_id}'"))


def test_the_run_ends_well(survived: Ended) -> None:
    told = {name: (task["state"], task["try_number"]) for name, task in survived.tasks.items()}
    assert survived.state == "success", told
    assert all(state in ("success", "skipped") for state, _ in told.values()), told


def test_there_is_one_run_per_stage_and_one_parent(survived: Ended, client: MlflowClient) -> None:
    worked = {name for name in STAGES if survived.tasks[name]["state"] == "success"}
    runs = runs_of(client, survived.run_id)
    assert Counter(run.data.tags["pipeline.stage"] for run in runs) == Counter({"pipeline", *worked})
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_there_is_one_version_of_its_model_and_the_aliases_are_right(survived: Ended, client: MlflowClient) -> None:
    tags = next(r.data.tags for r in runs_of(client, survived.run_id) if r.data.tags["pipeline.stage"] == "register")
    trained = next(r for r in runs_of(client, survived.run_id) if r.data.tags["pipeline.stage"] == "train")
    versions = [v for v in client.search_model_versions(f"name = '{MODEL}'") if v.run_id == trained.info.run_id]
    assert [v.version for v in versions] == [tags["pipeline.version"]]
    assert client.get_model_version_by_alias(MODEL, "challenger").version == tags["pipeline.version"]
    champion = client.get_model_version_by_alias(MODEL, "champion").version
    assert (champion == tags["pipeline.version"]) == (tags["pipeline.promoted"] == "true")


def test_no_container_of_a_stage_is_left(survived: Ended) -> None:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=pipeline.dag_run_id={survived.run_id}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_everything_is_healthy_again_and_the_champion_answers(
    survived: Ended, airflow: Stack, client: MlflowClient
) -> None:
    champion = client.get_model_version_by_alias(MODEL, "champion").version
    deadline = time.monotonic() + 1800
    while True:
        states = airflow.states() | airflow.states(FILE)
        well = all(states[name] == "exited" if name in ("bucket", "airflow-init") else states[name] == "healthy"
                   for name in states)  # fmt: skip
        if well:
            info = requests.post(f"{airflow.serving_url}/get_model_info", timeout=120)
            if info.ok and str(info.json()["model_version"]) == champion:
                return
        assert time.monotonic() < deadline, states
        time.sleep(1)


def test_every_service_died_once(survived: Ended) -> None:
    for _, _, services in EVERY_PLAN[survived.run_id]:
        for service in services:
            assert inspected(service)["RestartCount"] == 1, service

"""The whole DAG through containers: Airflow here, stages, MLflow, Postgres, S3 and the service on the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from .conftest import ROOT, TAG, Stack, build_images

pytestmark = pytest.mark.docker
STAGES = ["prepare", "train", "evaluate", "register", "deploy"]
LOGICAL_DATE = "2026-02-03"
CONF = {"epochs": 3, "registered_model": "vision-classifier"}


@pytest.fixture(scope="module")
def environment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Airflow is started with: a home of its own, the docker runtime, the stack's addresses."""
    user, password = stack.login
    kept = ("PATH", "HOME", "LANG", "DOCKER_HOST", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": f"{ROOT}/dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PIPELINE_RUNTIME": "docker",
        "PIPELINE_IMAGE_TAG": TAG,
        "PIPELINE_DOCKER_NETWORK": stack.network,
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
        "SERVING_URL": stack.serving_url,
    }


@pytest.fixture(scope="module")
def finished(stack: Stack, environment: dict[str, str]) -> str:
    """Output of one DAG run that ended well."""
    build_images(*STAGES, "serving")
    stack.compose("up", "--detach", "serving", file="docker-compose-mlops.yml")
    airflow = str(Path(sys.executable).with_name("airflow"))
    subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=180)
    command = [airflow, "dags", "test", "daily_training", LOGICAL_DATE, "--conf", json.dumps(CONF)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


@pytest.fixture
def client(stack: Stack, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, environment[name])
    return MlflowClient(stack.mlflow_url)


def test_every_stage_left_a_finished_run_with_its_image_and_commit(finished: str, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("vision-mlops")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_stage = {run.data.tags["pipeline.stage"]: run for run in runs}
    assert sorted(by_stage) == sorted([*STAGES, "pipeline"])
    assert len(runs) == len(by_stage)
    for stage in STAGES:
        run = by_stage[stage]
        assert run.info.status == "FINISHED"
        assert run.data.tags["pipeline.image"].startswith(("sha256:", f"vision-mlops/{stage}"))
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40


def test_the_champion_is_the_version_in_service(finished: str, stack: Stack, client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("vision-classifier", "champion")
    info = requests.post(f"{stack.serving_url}/get_model_info", timeout=30).json()
    assert str(info["model_version"]) == str(version.version) == "1"
    assert info["run_id"] == version.run_id


def test_the_service_is_healthy(finished: str, stack: Stack) -> None:
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "90", "serving", file="docker-compose-mlops.yml")


def test_no_stage_container_is_left(finished: str, stack: Stack) -> None:
    command = [
        "docker",
        "ps",
        "--all",
        "--quiet",
        "--filter",
        f"network={stack.network}",
        "--filter",
        "label=pipeline.key",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_no_password_is_in_the_log(finished: str, stack: Stack) -> None:
    assert stack.variables["MLFLOW_TRACKING_PASSWORD"] not in finished

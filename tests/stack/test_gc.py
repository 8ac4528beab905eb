"""`make gc` on a real engine: containers, and what lies in the S3 store behind MLflow's proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient

from tasks.settings import MLFLOW_REGISTRY_USER, MLFLOW_STAGES_USER

from .conftest import PROJECT, ROOT, TAG, Stack, build_images

pytestmark = pytest.mark.docker
EXPERIMENT = "leftovers"


def gc(command: str, *arguments: str, **variables: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    program = [sys.executable, "-m", *command.split(), *arguments]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=ROOT, env=kept | variables, timeout=1800, check=True
    )
    return done.stdout


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def left(stack: Stack) -> Iterator[list[str]]:
    """One container that runs, one that never started, and one of another network; their IDs."""
    build_images("register")
    image = f"{stack.variables.get('PIPELINE_IMAGE_PREFIX') or 'vision-mlops'}/register:{TAG}"
    options = ["--label", "pipeline.key=daily/gc/register", "--entrypoint", "sleep"]
    made = [
        docker("run", "--detach", "--network", PROJECT, *options, image, "600"),
        docker("create", "--network", PROJECT, *options, image, "600"),
        docker("create", "--network", "none", *options, image, "600"),
    ]
    yield made
    subprocess.run(["docker", "rm", "--force", "--volumes", *made], capture_output=True)


def there(containers: list[str]) -> list[bool]:
    listed = docker("ps", "--all", "--quiet", "--no-trunc").split()
    return [one in listed for one in containers]


def test_containers_are_listed_first_and_removed_when_asked(left: list[str]) -> None:
    network = {"PIPELINE_DOCKER_NETWORK": PROJECT}
    assert f"none is left over on network {PROJECT}" in gc("deploy leftover-containers", **network)  # too young
    time.sleep(1.1)  # the engine's times are read in whole seconds
    said = gc("deploy leftover-containers", "--days", "0", **network)
    assert said.count("daily/gc/register") == 2
    assert "2 would be removed" in said
    assert there(left) == [True, True, True]
    assert "2 removed" in gc("deploy leftover-containers", "--days", "0", "--apply", **network)
    assert there(left) == [False, False, True]


def test_artifacts_and_searches_are_removed_from_the_store(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"http://127.0.0.1:{stack.variables['S3_PORT']}"
    login = {"MLFLOW_TRACKING_URI": stack.mlflow_url}
    password = stack.variables["MLFLOW_STAGES_PASSWORD"]
    stages = {"MLFLOW_TRACKING_USERNAME": MLFLOW_STAGES_USER, "MLFLOW_TRACKING_PASSWORD": password}
    for name, value in (login | stages).items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(stack.mlflow_url)
    tags = {"pipeline.dag_id": "daily", "pipeline.dag_run_id": "gc"}
    experiment_id = client.create_experiment(EXPERIMENT)
    train, tune = (
        client.create_run(experiment_id, tags=tags | {"pipeline.stage": stage}).info.run_id
        for stage in ("train", "tune")
    )
    (tmp_path / "00001.pt").write_bytes(b"x" * 5000)
    client.log_artifact(train, str(tmp_path / "00001.pt"), "checkpoints")
    keys = [stack.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=store)
    bucket = stack.variables.get("S3_BUCKET") or "mlflow"
    anothers = f"tune/{'0' * 32}/try-000/checkpoint"
    for key in (f"tune/{tune}/try-000/checkpoint", anothers):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    def kept() -> list[str]:
        found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return sorted(one["Key"] for one in found if train in one["Key"] or "/try-000/checkpoint" in one["Key"])

    variables = {name: value for name, value in stack.variables.items() if value} | login
    variables["MLFLOW_TRACKING_USERNAME"] = MLFLOW_REGISTRY_USER  # as deploy/env.sh sets it
    variables["MLFLOW_TRACKING_PASSWORD"] = stack.variables["MLFLOW_REGISTRY_PASSWORD"]
    variables |= {"S3_ENDPOINT_URL": store, "PIPELINE_EXPERIMENT": EXPERIMENT, "PIPELINE_RUNTIME": "docker"}
    variables["PIPELINE_HOME"] = str(tmp_path)
    assert len(kept()) == 3
    assert "4 would be removed" in gc("tasks", "gc", "--days", "0", **variables)  # two runs, without an end
    assert len(kept()) == 3
    assert "4 removed" in gc("tasks", "gc", "--days", "0", "--apply", **variables)
    assert kept() == [anothers]
    assert {client.get_run(run_id).info.status for run_id in (train, tune)} == {"KILLED"}
    s3.delete_object(Bucket=bucket, Key=anothers)
    assert "nothing is left over" in gc("tasks", "gc", "--days", "0", **variables)


def test_old_weights_are_removed_through_the_server_by_the_user_that_stages_have(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pipeline-registry, as which the stage clean logs in; the models were logged by pipeline-stages."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", MLFLOW_STAGES_USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", stack.variables["MLFLOW_STAGES_PASSWORD"])
    client, long_ago = MlflowClient(stack.mlflow_url), int((time.time() - 100 * 86400) * 1000)
    experiment_id = client.create_experiment("old-weights")
    tags = {"pipeline.dag_id": "daily", "pipeline.dag_run_id": "old", "pipeline.stage": "train"}
    run_id = client.create_run(experiment_id, start_time=long_ago, tags=tags).info.run_id
    model = client.create_logged_model(experiment_id, "model", run_id)
    (tmp_path / "model" / "data").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    (tmp_path / "model" / "data" / "model.onnx").write_bytes(b"x" * 5000)
    client.log_model_artifacts(model.model_id, str(tmp_path / "model"))
    client.set_tag(run_id, "pipeline.logged_model_uri", f"models:/{model.model_id}")
    client.set_terminated(run_id, "FINISHED", end_time=long_ago)
    keys = [stack.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    store = f"http://127.0.0.1:{stack.variables['S3_PORT']}"
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=store)

    def kept() -> list[str]:
        found = s3.list_objects_v2(Bucket=stack.variables.get("S3_BUCKET") or "mlflow").get("Contents", [])
        return sorted(one["Key"].rpartition("/artifacts/")[2] for one in found if model.model_id in one["Key"])

    variables = {"MLFLOW_TRACKING_URI": stack.mlflow_url, "PIPELINE_EXPERIMENT": "old-weights"}
    variables |= {"MLFLOW_TRACKING_USERNAME": MLFLOW_REGISTRY_USER, "PIPELINE_HOME": str(tmp_path)}
    variables |= {"MLFLOW_TRACKING_PASSWORD": stack.variables["MLFLOW_REGISTRY_PASSWORD"]}
    variables |= {"SERVING_URL": "http://127.0.0.1:9"}  # nothing is served
    assert kept() == ["MLmodel", "data/model.onnx"]
    assert "weights, never registered" in gc("tasks", "gc", **variables)
    assert "1 removed" in gc("tasks", "gc", "--apply", **variables)
    assert kept() == ["MLmodel"]
    assert "pipeline.weights_removed" in client.get_run(run_id).data.tags
    assert "nothing is left over" in gc("tasks", "gc", **variables)

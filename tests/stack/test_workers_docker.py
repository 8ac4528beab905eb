"""Stages on two workers: of a Ray in the stage's own container, and of the profile `ray`."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from . import photos
from .conftest import Stack, airflow_beside, airflow_command, build_images
from .ray_cluster import ray_cluster, ray_workers

# What each part does is tested without an engine, in tests/tasks: stages, distributed, prediction.
pytestmark = pytest.mark.docker
DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task

RETRIES = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def train_on(prepare):
    return stage_task("train", prepare_run_id=prepare.output["run_id"], prepare_tags=prepare.output["tags"])


with DAG(dag_id="on_workers", default_args=RETRIES, params=stage_params("prepare", "train")):
    train_on(stage_task("prepare"))

with DAG(dag_id="judged_on_workers", default_args=RETRIES, params=stage_params("prepare", "train", "evaluate")):
    train = train_on(stage_task("prepare"))
    stage_task("evaluate", train_run_id=train.output["run_id"])

with DAG(dag_id="decoded_on_workers", params=stage_params("prepare")):
    stage_task("prepare")

with DAG(dag_id="answers_on_workers", params=stage_params("predict")):
    stage_task("predict")
"""
CONF: dict[str, Any] = {
    **{"workers": 2, "worker_cpus": 1, "sync_batch_norm": True, "epochs": 3, "weights": "none", "force": ["train"]},
    **{"learning_rate": 0.01, "device": "cpu"},
}


@pytest.fixture(scope="module")
def airflow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of an Airflow here whose stages run on the engine, as `make run RUNTIME=docker` has it."""
    build_images("prepare", "train", "evaluate", "predict")
    return airflow_beside(stack, tmp_path_factory.mktemp("workers"), "on_workers.py", DAG)


def run_of(
    airflow: Mapping[str, str], stack: Stack, experiment: str, stage: str, dag_id: str, conf: Mapping[str, Any]
) -> tuple[Run, MlflowClient, str]:
    """Run a DAG; return the run of a stage, a client that may read it, and what was said."""
    command = [airflow_command(), "dags", "test", dag_id, "--conf", json.dumps(conf)]
    variables = {**airflow, "PIPELINE_EXPERIMENT": experiment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    client = MlflowClient(stack.mlflow_url)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id], f"tags.`pipeline.stage` = '{stage}'")
    assert run.info.status == "FINISHED"
    return run, client, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def login(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test itself asks MLflow, it asks as its administrator."""
    log_in(stack, monkeypatch)


def log_in(stack: Stack, patch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
        patch.setenv(f"MLFLOW_TRACKING_{name}", value)


def train(
    airflow: Mapping[str, str], stack: Stack, experiment: str, dag_id: str = "on_workers", **changes: Any
) -> tuple[Run, list[float], str]:
    """Return the run of a training, its losses by epoch, and what was said."""
    with pytest.MonkeyPatch.context() as patch:
        log_in(stack, patch)
        run, client, said = run_of(airflow, stack, experiment, "train", dag_id, CONF | changes)
        losses = [point.value for point in client.get_metric_history(run.info.run_id, "train_loss")]
    return run, losses, said


def predict(airflow: Mapping[str, str], stack: Stack, workers: int, folder: Path) -> tuple[Run, list[list[str]], str]:
    """Return the run of a batch prediction with the champion, the rows of its tables, and what was said."""
    conf = {"images": photos.URI, "output_format": "csv", "part_images": 20, "workers": workers}
    run, client, said = run_of(airflow, stack, f"answers-{workers}", "predict", "answers_on_workers", conf)
    folder.mkdir()
    found = Path(client.download_artifacts(run.info.run_id, "predictions", str(folder)))
    rows = [row for path in sorted(found.glob("*.csv")) for row in csv.reader(path.read_text().splitlines())]
    assert len(list(found.glob("*.csv"))) == 3
    return run, rows, said


def require_equal(losses: list[float], expected: list[float]) -> None:
    """Rounding differs from the first batch on, and grows with each."""
    assert len(losses) == len(expected) == CONF["epochs"]
    assert losses[0] == pytest.approx(expected[0], rel=1e-4)
    assert losses[-1] == pytest.approx(expected[-1], rel=0.05)


@pytest.fixture(scope="module")
def alone(airflow: dict[str, str], stack: Stack) -> list[float]:
    return train(airflow, stack, "one-worker", workers=1)[1]


def test_two_workers_share_the_container_of_the_stage(
    airflow: dict[str, str], stack: Stack, alone: list[float]
) -> None:
    run, losses, _ = train(airflow, stack, "own-ray")
    assert run.data.tags["pipeline.workers"] == "2"
    assert "," not in run.data.tags["pipeline.machines"]
    require_equal(losses, alone)


@pytest.fixture(scope="module")
def cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ray_cluster(stack, tmp_path_factory.mktemp("cluster")) as working:
        yield working


def test_on_the_cluster_each_worker_of_a_training_is_on_a_node_of_its_own_and_evaluate_uses_them_too(
    cluster: Stack, airflow: dict[str, str], stack: Stack, alone: list[float]
) -> None:
    limits = {"PIPELINE_GOLD_MEMORY_MIB": "0"}  # images stay on disk: the nodes get them from the stage
    run, losses, said = train(airflow | limits | {"COMPOSE_PROFILES": "ray"}, stack, "cluster", "judged_on_workers")
    require_equal(losses, alone)
    runs = MlflowClient(stack.mlflow_url).search_runs([run.info.experiment_id])
    machines = {one.data.tags["pipeline.stage"]: one.data.tags.get("pipeline.machines", "") for one in runs}
    assert set(machines["train"].split(", ")) == set(ray_workers())
    assert set(machines["evaluate"].split(", ")) <= set(ray_workers())  # it may be done before the second has started
    assert not machines["prepare"], "these images are no files"
    for name in ("RAY_AUTH_TOKEN", "S3_SECRET_KEY", *stack.stage_passwords):
        assert stack.variables[name] not in said


def test_more_workers_than_the_cluster_has_are_refused_with_what_it_has(
    cluster: Stack, airflow: dict[str, str], tmp_path: Path
) -> None:
    command = [airflow_command(), "dags", "test", "on_workers", "--conf", json.dumps(CONF | {"workers": 3})]
    variables = {**airflow, "COMPOSE_PROFILES": "ray", "PIPELINE_EXPERIMENT": "cluster"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode != 0
    told = "are more than the cluster at ray-head:6379 has room for: 2 (1 CPUs, 0 GPUs; 1 CPUs, 0 GPUs)"
    assert told in done.stdout + done.stderr


@pytest.fixture(scope="module")
def reading(cluster: Stack, airflow: dict[str, str], stack: Stack) -> dict[str, str]:
    """The environment of an Airflow whose stages read photos in the store, with the cluster at hand."""
    photos.upload(stack.store)
    keys = {"AWS_ACCESS_KEY_ID": stack.variables["S3_ACCESS_KEY"]}
    keys |= {"AWS_SECRET_ACCESS_KEY": stack.variables["S3_SECRET_KEY"]}
    return airflow | keys | {"PIPELINE_STAGE_AWS_ENDPOINT_URL": "http://s3:9000", "COMPOSE_PROFILES": "ray"}


def test_the_nodes_of_the_cluster_decode_for_prepare(reading: dict[str, str], stack: Stack) -> None:
    asked = ("dataset", "source", "image_size", "registered_model")  # the default model has a champion for digits
    conf = {name: photos.CONF[name] for name in asked} | {"workers": 2, "worker_cpus": 1}
    run, _, said = run_of(reading, stack, "decoded", "prepare", "decoded_on_workers", conf)
    assert set(run.data.tags["pipeline.machines"].split(", ")) <= set(ray_workers())
    assert run.data.metrics["bronze.rows_out"] == 2 * photos.IMAGES
    for name in ("RAY_AUTH_TOKEN", "S3_SECRET_KEY", *stack.stage_passwords):
        assert stack.variables[name] not in said


@pytest.mark.usefixtures("daily_run")
def test_the_nodes_of_the_cluster_answer_as_the_stage_alone(
    reading: dict[str, str], stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")  # it uses the store's name in the network
    _, alone, _ = predict(reading, stack, 1, tmp_path / "alone")
    run, rows, said = predict(reading, stack, 2, tmp_path / "workers")
    assert set(run.data.tags["pipeline.machines"].split(", ")) <= set(ray_workers())
    assert run.data.metrics["images"] == 2 * photos.IMAGES
    assert [row[:2] for row in rows] == [row[:2] for row in alone]
    for row, expected in zip(rows, alone, strict=True):
        if row[0] != "file":
            assert list(map(float, row[2:])) == pytest.approx(list(map(float, expected[2:])), rel=0, abs=1e-6)
    for name in ("RAY_AUTH_TOKEN", "S3_SECRET_KEY", *stack.stage_passwords):
        assert stack.variables[name] not in said

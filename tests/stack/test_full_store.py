"""A full disk quota on a real S3 store: a stage says so in one line, and its retry goes on when there is room again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient

from tasks.errors import UnavailableError
from tasks.settings import MLFLOW_STAGES_USER

from .conftest import PROJECT, TAG, Stack, build_images

pytestmark = pytest.mark.docker
STORE = f"{PROJECT}-s3-1"
TASK = {"dag_id": "daily_training", "dag_run_id": "full-store", "task_id": "prepare"}
EXPERIMENT = "full-store"


def in_store(script: str) -> None:
    done = subprocess.run(["docker", "exec", STORE, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def full(stack: Stack) -> Iterator[None]:
    """A quota of less than the bucket holds, set with the server's own tool: Ceph's, or MinIO's."""
    user = stack.variables["S3_ACCESS_KEY"]
    ceph = f"radosgw-admin quota %s --quota-scope=user --uid={user}"
    minio = (
        f"mc alias set here http://127.0.0.1:9000 {user} {stack.variables['S3_SECRET_KEY']} && mc quota %s here/mlflow"
    )
    either = "if command -v radosgw-admin >/dev/null; then {}; else {}; fi"
    in_store(either.format(f"{ceph % 'set'} --max-size=1 && {ceph % 'enable'}", f"{minio % 'set'} --size 1KiB"))
    try:
        yield
    finally:
        in_store(either.format(ceph % "disable", minio % "clear"))


def prepare(stack: Stack) -> subprocess.CompletedProcess[str]:
    """The stage as its container, the same request each time."""
    environment = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": MLFLOW_STAGES_USER,
        "MLFLOW_TRACKING_PASSWORD": stack.variables["MLFLOW_STAGES_PASSWORD"],
        "PIPELINE_EXPERIMENT": EXPERIMENT,
        "PIPELINE_RUNTIME": "docker",
    }
    options = [part for item in environment.items() for part in ("--env", "=".join(item))]
    request = json.dumps(
        {"task": TASK, "dataset": "digits", "data_seed": 11}
    )  # a seed of its own: gold is not there yet
    command = ["docker", "run", "--rm", "--network", stack.network, *options, f"vision-mlops/prepare:{TAG}"]
    return subprocess.run([*command, "prepare", "--request", request], capture_output=True, text=True, timeout=1800)


def test_a_full_store_is_one_line_and_the_retry_goes_on_in_the_same_run(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_images("prepare")
    user, password = stack.login
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    client = MlflowClient(stack.mlflow_url)

    def runs() -> dict[str, tuple[str, str]]:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        assert len(found) == 2, "one of the stage, one of the DAG run"
        return {run.data.tags["pipeline.stage"]: (run.info.run_id, run.info.status) for run in found}

    with full(stack):
        failed = prepare(stack)
        said = (failed.stdout + failed.stderr).splitlines()
        assert failed.returncode == UnavailableError.exit_code, said  # Airflow tries again
        assert "Traceback" not in failed.stdout + failed.stderr
        assert [line for line in said if "ERROR" in line] == said[-1:]
        assert "the artifact store is full (" in said[-1]
        assert "raise its quota or free space" in said[-1]
        first = runs()
        assert {status for _, status in first.values()} == {"FAILED"}

    again = prepare(stack)
    assert again.returncode == 0, again.stdout + again.stderr
    assert runs() == {stage: (run_id, "FINISHED") for stage, (run_id, _) in first.items()}

"""The train stage as a process while the store of its images is away: told to stop, and out of patience."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TrainRequest
from tasks.errors import UnavailableError
from tasks.records import gold_store, queries, tracking, tuned_sets
from tasks.settings import Settings
from tasks.vision.data.shards import writer
from tests.artifact_server import ArtifactServer
from tests.digits import digits_as_gold
from tests.stage_process import read_to
from tests.waiting import until

ROOT = Path(__file__).parents[3]
AT_ONCE = 60.0  # seconds, on a busy machine; MLflow's client alone would go on for two minutes, and the stage for ten


@pytest.fixture
def request_json(
    store: ArtifactServer, settings: Settings, task: TaskIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A training on images that stay on disk, in shards of nine."""
    monkeypatch.setattr(writer, "save", partial(writer.save, shard_bytes=9 * 64))
    monkeypatch.setenv("PIPELINE_GOLD_MEMORY_MIB", "0")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as prepare:
        gold_store.store(digits_as_gold(100, 40))
        mlflow.set_tags({gold_store.GOLD_RUN: prepare.info.run_id, tuned_sets.DATASET: "digits"})
    fields = {"prepare_run_id": prepare.info.run_id, "device": "cpu", "epochs": 2, "batch_size": 20}
    return TrainRequest.model_validate({"task": task, **fields}).model_dump_json()


def start(request_json: str, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tasks", "train", "--request", request_json, "--result", str(home / "answer.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def status(settings: Settings) -> str:
    (run,) = queries.find_runs(tracking.connect(settings), {"pipeline.stage": "train"})
    return str(MlflowClient().get_run(run.info.run_id).info.status)


@pytest.mark.parametrize(
    ("retries", "line"),
    [("0", "WARNING tasks.store: waiting to read gold/train-0"), ("6", "WARNING urllib3.* Retrying ")],
)
def test_it_ends_at_once_when_it_is_told_to_while_it_waits(
    request_json: str,
    store: ArtifactServer,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    retries: str,
    line: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
    store.shards_left = 5
    stage = start(request_json, settings.pipeline_home)
    until(lambda: len(store.shards) > 5 or stage.poll() is not None)
    store.leave()
    read_to(line, stage)
    told = time.monotonic()
    stage.send_signal(signal.SIGTERM)
    output, _ = stage.communicate(timeout=600)
    seconds = time.monotonic() - told
    assert stage.returncode == 143, output
    assert status(settings) == "KILLED"
    assert seconds < AT_ONCE
    assert not list((tmp_path / "temporary").glob("shards-*"))


def test_it_fails_to_be_tried_again_when_its_patience_ends_and_the_retry_goes_on(
    request_json: str, store: ArtifactServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("PIPELINE_STORE_WAIT_SECONDS", "1")
    store.shards_left = 5
    stage = start(request_json, settings.pipeline_home)
    until(lambda: len(store.shards) > 5 or stage.poll() is not None)
    store.leave()
    output, _ = stage.communicate(timeout=600)
    assert "UnavailableError: the store was away for 1 s (PIPELINE_STORE_WAIT_SECONDS) while the stage" in output
    assert "waited to read gold/train-0" in output
    assert stage.returncode == UnavailableError.exit_code
    assert status(settings) == "FAILED"
    store.start()
    again = start(request_json, settings.pipeline_home)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert status(settings) == "FINISHED"


def test_a_checkpoint_is_written_again_once_the_store_answers(
    request_json: str, store: ArtifactServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("PIPELINE_GOLD_MEMORY_MIB")  # nothing but its writes needs the store meanwhile
    store.unanswered = 2
    stage = start(request_json, settings.pipeline_home)
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == 0, output
    assert "WARNING tasks.store: waiting to write a checkpoint, for up to 600 s: MLflow or its store is not" in output
    assert "the store answers again after" in output
    assert status(settings) == "FINISHED"

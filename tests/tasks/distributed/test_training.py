"""The train stage with two workers, as a process with a Ray of its own: interrupted, robbed of a worker, refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.cluster import supervisor
from tasks.contract.messages import TaskIdentity
from tasks.contract.recipe import Basis
from tasks.contract.training import TrainRequest
from tasks.errors import RequestError, UnavailableError
from tasks.records import gold_store, queries, tracking, tuned_sets
from tasks.settings import Settings
from tasks.vision.data.shards import writer
from tasks.vision.devices import prepare_cpu
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training
from tests.artifact_server import ArtifactServer
from tests.digits import digits_as_gold
from tests.stage_process import read_to
from tests.waiting import until

ROOT = Path(__file__).parents[3]
EPOCHS = 60
FIELDS: dict[str, Any] = {
    **{"workers": 2, "worker_cpus": 1, "sync_batch_norm": True, "device": "cpu", "epochs": EPOCHS, "batch_size": 50},
    **{"log_every": 3, "learning_rate": 0.002, "prepare_run_id": "0" * 32},
}


def request(**fields: Any) -> TrainRequest:
    task = TaskIdentity(dag_id="daily", dag_run_id="first", task_id="train")
    return TrainRequest.model_validate({"task": task, **FIELDS, **fields})


@pytest.fixture
def prepare_run_id(settings: Settings) -> str:
    return stored_gold(settings)


def stored_gold(settings: Settings) -> str:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as prepare:
        gold_store.store(digits_as_gold())
        mlflow.set_tags({gold_store.GOLD_RUN: prepare.info.run_id, tuned_sets.DATASET: "digits"})
    return str(prepare.info.run_id)


def start(asked: TrainRequest, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tasks", "train", "--request", asked.model_dump_json()]
    command += ["--result", str(home / "answer.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def workers(temporary: Path) -> list[int]:
    """IDs of the processes of Ray that train."""
    named = ((process, Path(f"/proc/{process}/cmdline")) for process in supervisor.users(temporary))
    return [process for process, title in named if b"RayTrainWorker" in title.read_bytes()]


def epochs(run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in MlflowClient().get_metric_history(run_id, metric)]


def test_a_training_survives_its_own_end_and_that_of_a_worker(
    settings: Settings, prepare_run_id: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_GOLD_MEMORY_MIB", "0")  # images stay on disk, and workers get them by the stage
    asked = request(prepare_run_id=prepare_run_id)
    first = start(asked, settings.pipeline_home)
    before = read_to("epoch 5/", first)
    assert re.search("2 workers on .*: on cpu in float32 with 1 threads each", before)
    first.send_signal(signal.SIGTERM)
    read_to("asked to stop .SIGTERM.", first)
    assert first.wait(600) == 143

    again = start(asked, settings.pipeline_home)
    read_to(r"resuming after epoch \d+ of", again)
    read_to("2 workers on", again)
    read_to(r"epoch \d+/", again)
    os.kill(workers(temporary)[-1], signal.SIGKILL)
    read_to("a worker was lost; going on after batch", again)
    read_to("2 workers on", again)
    assert again.communicate(timeout=600) is not None
    assert again.returncode == 0

    result = json.loads((settings.pipeline_home / "answer.json").read_text())
    run = MlflowClient().get_run(result["run_id"])
    assert (run.data.tags["pipeline.workers"], run.data.tags["pipeline.threads"]) == ("2", "1")
    steps = [step for step, _ in epochs(result["run_id"], "batch_loss")]
    assert steps == list(range(3, 4 * EPOCHS + 1, 3))
    prepare_cpu(1, 1)
    gold = digits_as_gold()
    alone = Training(asked.recipe(Basis("digits", len(gold.train), 8)), gold)
    expected = [end for end in alone.run() if isinstance(end, EpochEnd)]
    found = epochs(result["run_id"], "train_loss")
    assert [step for step, _ in found] == list(range(1, EPOCHS + 1))
    assert [loss for _, loss in found[:5]] == pytest.approx([end.train_loss for end in expected[:5]], rel=1e-4)
    assert found[-1][1] == pytest.approx(expected[-1].train_loss, rel=0.05)  # rounding grows with the steps
    until(lambda: not list(temporary.glob("ray-*")))


@pytest.fixture
def prepare_run_in_store(store: ArtifactServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Gold in shards of nine images, which stay on disk, in a store that can go away."""
    monkeypatch.setattr(writer, "save", partial(writer.save, shard_bytes=9 * 64))
    for name, value in (("PIPELINE_GOLD_MEMORY_MIB", "0"), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")):
        monkeypatch.setenv(name, value)
    return stored_gold(settings)


def test_workers_wait_for_a_store_that_is_away_and_go_on(
    settings: Settings, prepare_run_in_store: str, store: ArtifactServer, temporary: Path
) -> None:
    store.shards_left = 15
    stage = start(request(prepare_run_id=prepare_run_in_store, epochs=3), settings.pipeline_home)
    until(lambda: len(store.shards) > 15 or stage.poll() is not None)
    store.leave()
    before = read_to(r"WARNING tasks\.train: waiting to read gold/", stage)
    assert "2 workers on" in before
    store.start()
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == 0, output
    assert "the store answers again after" in output
    assert "a worker was lost" not in output
    result = json.loads((settings.pipeline_home / "answer.json").read_text())
    prepare_cpu(1, 1)
    gold = digits_as_gold()
    alone = Training(request(epochs=3).recipe(Basis("digits", len(gold.train), 8)), gold)
    expected = [end.train_loss for end in alone.run() if isinstance(end, EpochEnd)]
    assert [loss for _, loss in epochs(result["run_id"], "train_loss")] == pytest.approx(expected, rel=1e-4)


def test_workers_whose_store_stays_away_end_to_be_tried_again(
    settings: Settings,
    prepare_run_in_store: str,
    store: ArtifactServer,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIPELINE_STORE_WAIT_SECONDS", "2")
    store.shards_left = 15
    stage = start(request(prepare_run_id=prepare_run_in_store, epochs=3), settings.pipeline_home)
    until(lambda: len(store.shards) > 15 or stage.poll() is not None)
    store.leave()
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == UnavailableError.exit_code, output
    assert (
        "ERROR tasks: UnavailableError: the store was away for 2 s (PIPELINE_STORE_WAIT_SECONDS) while the stage "
        "waited to read gold/" in output
    )
    assert "a worker was lost" not in output
    until(lambda: not list(temporary.glob("ray-*")))


def test_an_error_of_the_training_is_told_as_by_one_process(
    settings: Settings, prepare_run_id: str, temporary: Path
) -> None:
    stage = start(request(prepare_run_id=prepare_run_id, learning_rate=10, momentum=0.99), settings.pipeline_home)
    output, _ = stage.communicate(timeout=600)
    assert "RequestError: the loss became nan" in output
    assert stage.returncode == RequestError("").exit_code
    (run,) = queries.find_runs(tracking.connect(settings), {"pipeline.stage": "train"})
    assert run.info.status == "FAILED"
    until(lambda: not list(temporary.glob("ray-*")))


def test_more_workers_than_the_machine_has_cores_are_refused_before_anything_starts(
    settings: Settings, prepare_run_id: str, temporary: Path
) -> None:
    stage = start(request(prepare_run_id=prepare_run_id, workers=20, worker_cpus=512), settings.pipeline_home)
    output, _ = stage.communicate(timeout=600)
    assert re.search(r"workers=20 with 512 CPUs and 0 GPUs each are more than this machine has room for: 0", output)
    assert not list(temporary.glob("ray-*"))

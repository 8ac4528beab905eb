"""The tune stage as the runner calls it: a real Ray, a real MLflow store, a few hundred digits, a few epochs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_digits

from tasks import gold_store, tracking, tuned_sets
from tasks.contract import TuneRequest, TuneResult
from tasks.messages import TaskIdentity
from tasks.search import table
from tasks.settings import Settings
from tasks.stages import tune
from tasks.vision.gold import Gold, Split

Tune = Callable[..., TuneResult]


@pytest.fixture(scope="module")
def gold() -> Gold:
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    labels = digits.target.astype(np.int64)

    def split(start: int, stop: int) -> Split:
        return Split(images[start:stop], labels[start:stop], tuple(str(i) for i in range(start, stop)))

    statistics = {"mean": (float(images.mean() / 255),), "std": (float(images.std() / 255),)}
    splits = {"train": split(0, 200), "validation": split(200, 260), "test": split(260, 280)}
    return Gold(**splits, **statistics, classes=tuple("0123456789"), fingerprint="f" * 64, dataset="digits")


@pytest.fixture
def tune_stage(settings: Settings, gold: Gold) -> Tune:
    """Call the stage on `gold`, in the run of the DAG run `attempt_of`."""
    experiment_id = tracking.connect(settings)
    with mlflow.start_run(experiment_id=experiment_id) as prepare:
        gold_store.store(gold)
        mlflow.set_tag(gold_store.GOLD_RUN, prepare.info.run_id)

    def call(attempt_of: str = "first", **changes: object) -> TuneResult:
        task = TaskIdentity(dag_id="weekly", dag_run_id=attempt_of, task_id="tune")
        base = {"task": task, "prepare_run_id": prepare.info.run_id, "epochs": 2, "trials": 3, "device": "cpu"}
        request = TuneRequest.model_validate(base | {"grace_epochs": 1, "log_every": 2} | changes)
        with tracking.stage_run(request, "tune", settings) as run:
            return tune.run(request, run, settings)

    return call


def test_every_trial_has_a_run_and_the_best_is_kept(tune_stage: Tune, tmp_path: Path) -> None:
    result = tune_stage(searcher="random", scheduler="none")
    assert (result.finished, result.stopped, result.failed, result.epochs) == (3, 0, 0, 6)

    rows = table.read(result.run_id)
    assert [(row.number, row.state, row.epochs) for row in rows] == [(number, "finished", 2) for number in range(3)]
    assert len({json.dumps(row.values) for row in rows}) == 3
    best = rows[result.best_trial]
    assert result.best_value == best.best_value == max(max(row.history) for row in rows)
    assert tuned_sets.read(result.run_id).hyperparameters == result.hyperparameters
    assert result.hyperparameters.learning_rate == best.values["learning_rate"]

    run = MlflowClient().get_run(best.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["pipeline.best_trial"] == "true"
    assert run.data.tags["mlflow.parentRunId"] == result.run_id
    assert run.data.tags["pipeline.dag_id"] == "weekly"
    assert run.data.params["learning_rate"] == str(result.hyperparameters.learning_rate)
    assert run.data.params["epochs"] == "2"
    steps = [point.step for point in MlflowClient().get_metric_history(best.run_id, "train_loss")]
    assert steps == [1, 2]
    assert run.data.metrics["batch_loss"] > 0

    path = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="trials.csv", dst_path=str(tmp_path))
    lines = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    assert [line["run_id"] for line in lines] == [row.run_id for row in rows]
    assert float(lines[result.best_trial]["validation_accuracy"]) == result.best_value

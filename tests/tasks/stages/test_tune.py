"""The tune stage as the runner calls it: a real Ray, a real MLflow store, a few hundred digits, a few epochs."""

from __future__ import annotations

import csv
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.cluster.gold_files import share_stored
from tasks.cluster.stored_gold import StoredGold
from tasks.contract.messages import TaskIdentity
from tasks.contract.search_space import SearchSpace
from tasks.contract.training import TuneRequest, TuneResult
from tasks.errors import RequestError, UnavailableError
from tasks.records import gold_store, queries, tracking, tuned_sets
from tasks.records.inputs.training import TuneInputs
from tasks.search import table
from tasks.search.earlier_trial import State
from tasks.settings import Settings
from tasks.stages import tune
from tasks.vision.data.gold import Gold
from tests.digits import digits_as_gold

Tune = Callable[..., TuneResult]
NOTHING_ELSE = dict.fromkeys(SearchSpace.model_fields)


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold()


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
        # One process for all trials: starting one takes longer than training them.
        base |= {"grace_epochs": 1, "log_every": 2, "concurrent_trials": 1}
        request = TuneRequest.model_validate(base | changes)
        current = Settings()
        with tracking.stage_run(request, "tune", current) as run:
            return tune.run(request, TuneInputs.resolve(request, run), run, current)

    return call


def test_every_trial_has_a_run_a_failed_one_is_told_and_the_best_is_kept(
    tune_stage: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search for all three, as its Ray costs more than its trials."""
    asked: dict[str, object] = {
        "searcher": "grid",
        "scheduler": "median",
        "search_space": NOTHING_ELSE | {"learning_rate": [10.0, 0.01, 0.02]},
        "momentum": 0.99,
        "weight_decay": 0.9,  # at the first rate each step makes the weights nine times as large
        "batch_size": 10,
        "epochs": 4,
        "concurrent_trials": 2,
    }
    result = tune_stage(**asked)
    assert (result.finished, result.stopped, result.failed) == (2, 0, 1)
    rows = table.read(result.run_id)
    assert [(row.number, row.state) for row in rows] == [(0, "failed"), (1, "finished"), (2, "finished")]
    assert [row.epochs for row in rows[1:]] == [4, 4]
    assert rows[0].epochs < 4
    assert result.epochs == sum(row.epochs for row in rows)
    assert len({json.dumps(row.values) for row in rows}) == 3
    best = rows[result.best_trial]
    assert best.number > 0
    assert result.best_value == best.best_value == max(max(row.history) for row in rows[1:])
    assert tuned_sets.read(result.run_id).hyperparameters == result.hyperparameters
    assert result.hyperparameters.learning_rate == best.values["learning_rate"]

    run = MlflowClient().get_run(best.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["pipeline.best_trial"] == "true"
    assert run.data.tags["mlflow.parentRunId"] == result.run_id
    assert run.data.tags["pipeline.dag_id"] == "weekly"
    assert run.data.params["learning_rate"] == str(result.hyperparameters.learning_rate)
    assert run.data.params["epochs"] == "4"
    steps = [point.step for point in MlflowClient().get_metric_history(best.run_id, "train_loss")]
    assert steps == [1, 2, 3, 4]
    assert run.data.metrics["batch_loss"] > 0

    failed = MlflowClient().get_run(rows[0].run_id)
    assert failed.info.status == "FAILED"
    assert "the loss became" in failed.data.tags["pipeline.error"]

    path = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="trials.csv", dst_path=str(tmp_path))
    lines = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    assert [line["run_id"] for line in lines] == [row.run_id for row in rows]
    assert float(lines[result.best_trial]["validation_accuracy"]) == result.best_value

    # A retry after a kill that came when the last trial had ended has nothing to search.
    monkeypatch.setattr("tasks.search.search.ray_for", None)
    assert tune_stage(**asked).model_copy(update={"seconds": result.seconds}) == result
    assert table.read(result.run_id) == rows


def test_asha_stops_trials_and_says_how_far_they_came(tune_stage: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """On images that stay on disk: trials get them shard by shard from the stage."""
    monkeypatch.setenv("PIPELINE_GOLD_MEMORY_MIB", "0")
    opened: list[bool] = []

    def shared(*args: Any, **kwargs: Any) -> StoredGold:
        opened.append(True)
        return share_stored(*args, **kwargs)

    monkeypatch.setattr("tasks.cluster.gold_files.share_stored", shared)
    result = tune_stage(trials=8, epochs=4, scheduler="asha", reduction_factor=2, searcher="optuna", log_every=0)
    rows = table.read(result.run_id)
    assert (result.finished, result.stopped, result.failed) == tuple(
        sum(row.state == state for row in rows) for state in ("finished", "stopped", "failed")
    )
    assert result.stopped > 0
    for row in rows:
        if row.state == "stopped":
            assert row.epochs in (1, 2)  # the rungs
            assert row.rung == row.epochs - 1
        else:
            assert (row.epochs, row.rung) == (4, 2)
    assert result.epochs == sum(row.epochs for row in rows) < 8 * 4
    assert opened


def test_trials_train_on_several_workers_each(tune_stage: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """On images that stay on disk, which workers get from the stage; the second trial has the cores of the first."""
    monkeypatch.setenv("PIPELINE_GOLD_MEMORY_MIB", "0")
    space = NOTHING_ELSE | {"learning_rate": [0.01, 0.02]}
    asked = {"searcher": "grid", "scheduler": "none", "search_space": space, "batch_size": 50}
    result = tune_stage(**asked, trial_workers=2, concurrent_trials=None)
    assert (result.finished, result.failed) == (2, 0)
    for row in table.read(result.run_id):
        client = MlflowClient()
        assert client.get_run(row.run_id).data.tags["pipeline.workers"] == "2"
        assert [point.step for point in client.get_metric_history(row.run_id, "train_loss")] == [1, 2]
        assert [point.step for point in client.get_metric_history(row.run_id, "batch_loss")] == [2, 4, 6, 8]


@pytest.mark.long
def test_hyperband_goes_on_with_paused_trials_from_their_state(tune_stage: Tune) -> None:
    result = tune_stage(trials=5, epochs=4, scheduler="hyperband", reduction_factor=2, searcher="hyperopt")
    rows = table.read(result.run_id)
    assert len(rows) == 5
    assert result.failed == 0
    for row in rows:
        steps = [point.step for point in MlflowClient().get_metric_history(row.run_id, "train_loss")]
        assert steps == list(range(1, row.epochs + 1))


def test_more_than_there_is_is_refused_before_any_trial(tune_stage: Tune, settings: Settings) -> None:
    with pytest.raises(RequestError, match=r"trial_gpus=64 is more than any machine has \(0 GPUs\)"):
        tune_stage(trial_gpus=64)
    (run,) = queries.find_runs(tracking.connect(settings), {"pipeline.stage": "tune"})
    assert table.read(run.info.run_id) == []


def test_a_search_in_which_all_fail_says_why(
    tune_stage: Tune, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both trials failed in an earlier try, which ended before it told: that needs no Ray."""
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where nothing listens
        with pytest.raises(UnavailableError):
            tune_stage(trials=2, searcher="random")
    experiment_id = tracking.connect(settings)
    (run,) = queries.find_runs(experiment_id, {"pipeline.stage": "tune"})
    client = MlflowClient()
    for number, why in enumerate(("device='mps' is not available", "the loss became nan")):
        tags = {"mlflow.parentRunId": run.info.run_id, table.TRIAL: str(number), table.STATE: str(State.FAILED)}
        tags |= {table.CONFIG_SHA256: "c" * 64, table.VALUES: "{}", tracking.ERROR_TAG: why}
        client.set_terminated(client.create_run(experiment_id, tags=tags).info.run_id, "FAILED")
    with pytest.raises(RequestError, match=r"all 2 trials failed: device='mps' is not available; the loss became nan;"):
        tune_stage(trials=2, searcher="random")


def test_a_cluster_that_is_not_there_is_refused_within_seconds(
    tune_stage: Tune, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UnavailableError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"):
            tune_stage()
    assert time.monotonic() - began < 60

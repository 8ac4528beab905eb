"""What a killed search left in MLflow, as the next try finds it."""

from __future__ import annotations

import json
import sys

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.records import tracking
from tasks.search.earlier_trial import State
from tasks.search.earlier_trials import ALWAYS, EPOCH_METRICS, read_earlier
from tasks.search.table import CONFIG_SHA256, STATE, TRIAL, VALUES
from tasks.settings import Settings


@pytest.fixture
def experiment_id(settings: Settings) -> str:
    return tracking.connect(settings)


@pytest.fixture
def tune_run_id(experiment_id: str) -> str:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        return str(run.info.run_id)


def trial(experiment_id: str, tune_run_id: str, number: int, state: State, epochs: int = 2) -> str:
    """Make the run of a trial as it is just before it is ended."""
    client = MlflowClient()
    tags = {"mlflow.parentRunId": tune_run_id, TRIAL: str(number), STATE: str(state)}
    tags |= {CONFIG_SHA256: "c" * 64, VALUES: json.dumps({"learning_rate": 0.1})}
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    for epoch in range(1, epochs + 1):
        for name in EPOCH_METRICS:
            client.log_metric(run_id, name, epoch / 8, step=epoch)
    return run_id


@pytest.mark.parametrize(
    ("state", "status"), [(State.FINISHED, "FINISHED"), (State.STOPPED, "FINISHED"), (State.FAILED, "FAILED")]
)
def test_a_run_that_lacks_only_its_end_is_ended(
    experiment_id: str, tune_run_id: str, state: State, status: str
) -> None:
    run_id = trial(experiment_id, tune_run_id, 0, state)
    [known] = read_earlier(experiment_id, tune_run_id).values()
    assert (known.run_id, known.state, known.ended) == (run_id, state, True)
    assert [end.data_wait_share for end in known.history] == [0.125, 0.25]
    assert MlflowClient().get_run(run_id).info.status == status


def test_a_run_that_was_ended_keeps_its_end(experiment_id: str, tune_run_id: str) -> None:
    run_id = trial(experiment_id, tune_run_id, 0, State.FINISHED)
    MlflowClient().set_terminated(run_id, "FINISHED", end_time=1234)
    read_earlier(experiment_id, tune_run_id)
    assert MlflowClient().get_run(run_id).info.end_time == 1234


def test_a_trial_under_way_is_not_ended(experiment_id: str, tune_run_id: str) -> None:
    run_id = trial(experiment_id, tune_run_id, 0, State.RUNNING)
    [known] = read_earlier(experiment_id, tune_run_id, {0: ["newest", "older"]}).values()
    assert (known.ended, known.history, known.checkpoints) == (False, (), ("newest", "older"))
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"


def test_a_second_run_of_a_number_and_what_follows_a_gap_are_deleted(experiment_id: str, tune_run_id: str) -> None:
    kept = trial(experiment_id, tune_run_id, 0, State.FINISHED)
    second = trial(experiment_id, tune_run_id, 0, State.FINISHED)
    after_a_gap = trial(experiment_id, tune_run_id, 2, State.FINISHED)
    assert [known.run_id for known in read_earlier(experiment_id, tune_run_id).values()] == [kept]
    stages = [MlflowClient().get_run(run_id).info.lifecycle_stage for run_id in (kept, second, after_a_gap)]
    assert stages == ["active", "deleted", "deleted"]


def test_a_trial_of_an_earlier_release_has_all_its_epochs(
    experiment_id: str, tune_run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had not measured how long training waited for data."""
    monkeypatch.setattr(sys.modules[__name__], "EPOCH_METRICS", ALWAYS)
    trial(experiment_id, tune_run_id, 0, State.FINISHED)
    [known] = read_earlier(experiment_id, tune_run_id).values()
    assert "data_wait_share" not in ALWAYS
    assert [(end.epoch, end.train_loss, end.data_wait_share) for end in known.history] == [
        (1, 0.125, None),
        (2, 0.25, None),
    ]


def test_epochs_after_one_that_is_missing_are_not_earlier(experiment_id: str, tune_run_id: str) -> None:
    run_id = trial(experiment_id, tune_run_id, 0, State.FINISHED, epochs=1)
    MlflowClient().log_metric(run_id, "train_loss", 0.5, step=3)
    [known] = read_earlier(experiment_id, tune_run_id).values()
    assert [end.epoch for end in known.history] == [1]

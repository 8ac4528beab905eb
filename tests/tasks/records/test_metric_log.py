from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.records import store_wait
from tasks.records.metric_log import MetricLog, log_values
from tasks.records.store_wait import StoreWait
from tasks.records.tracking import connect
from tasks.settings import Settings


@pytest.fixture
def run_id(settings: Settings) -> Iterator[str]:
    with mlflow.start_run(experiment_id=connect(settings)) as run:
        yield run.info.run_id


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient().get_metric_history(run_id, key)]


def test_a_retry_sends_only_what_is_new(run_id: str) -> None:
    log_values({"rows": 10, "seconds": 1.5})
    log_values({"rows": 10, "seconds": 2.5, "late": 1})
    assert history(run_id, "rows") == [(0, 10)]
    assert history(run_id, "seconds") == [(0, 1.5), (1, 2.5)]
    assert history(run_id, "late") == [(0, 1)]
    assert MlflowClient().get_run(run_id).data.metrics == {"rows": 10, "seconds": 2.5, "late": 1}


def test_a_logged_model_gets_them_too(run_id: str) -> None:
    model = mlflow.initialize_logged_model("model", source_run_id=run_id)
    for _ in range(2):
        log_values({"accuracy": 0.5}, model.model_id)
    found = MlflowClient().get_logged_model(model.model_id).metrics
    assert [(metric.key, metric.step, metric.value) for metric in found] == [("accuracy", 0, 0.5)]


def test_metrics_whose_answer_was_lost_are_sent_again_and_kept_once(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_wait, "FIRST_PAUSE", 0.01)
    log_batch, lost = MlflowClient.log_batch, [True, True]

    def disturbed(client: MlflowClient, run_id: str, **batch: Any) -> None:
        log_batch(client, run_id, **batch)
        if lost:
            lost.pop()
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", disturbed)
    metrics = MetricLog(run_id, wait=StoreWait(600))
    for step in (1, 2):
        metrics.add(step, {"loss": 1 / step, "rate": 0.5})
    metrics.flush()
    assert not lost
    assert history(run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert history(run_id, "rate") == [(1, 0.5), (2, 0.5)]

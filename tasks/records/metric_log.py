"""Metrics of a run: each step is logged once, however often the stage is tried."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric

from tasks.records.store_wait import StoreWait

BATCH = 500  # MLflow accepts up to 1000 in one request
FLUSH_SECONDS = 10.0


class MetricLog:
    """Collects metrics and sends them to a run; steps that an earlier try of the stage sent are skipped."""

    def __init__(self, run_id: str, *, fresh: bool = False, wait: StoreWait | None = None) -> None:
        """Read the last step of every metric of the run; a `fresh` run has none to read.

        Args:
            run_id: the run.
            fresh: whether it was made just now.
            wait: waits for MLflow when it is away; None: that ends the stage.
        """
        self._client = MlflowClient()
        self._run_id = run_id
        self._wait = wait
        self._pending: list[Metric] = []
        self._flushed = time.monotonic()
        logged = [] if fresh else self._client.get_run(run_id).data.metrics
        self._last = {key: max(m.step for m in self._client.get_metric_history(run_id, key)) for key in logged}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the `values` of one step; they are sent now or with a later step, after at most FLUSH_SECONDS."""
        now = int(time.time() * 1000)
        self._pending += [
            Metric(key, value, now, step) for key, value in values.items() if step > self._last.get(key, -1)
        ]
        if len(self._pending) >= BATCH or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send everything added so far."""
        while self._pending:
            batch = self._pending[:BATCH]
            send = partial(self._client.log_batch, self._run_id, metrics=batch)
            if self._wait is None:
                send()
            else:  # MLflow keeps metrics with the same time once, so they may be sent again
                self._wait(send, "to log metrics")
            del self._pending[:BATCH]
        self._flushed = time.monotonic()


def log_values(values: Mapping[str, float], model_id: str | None = None) -> None:
    """Log values that a stage counted or measured to the active run, and to a logged model if one is named.

    A retry counts and measures again. An unchanged value is not sent twice; a changed one becomes the next step.
    """
    client, run = MlflowClient(), mlflow.active_run()
    assert run is not None  # noqa: S101  # stages work inside `tracking.stage_run`
    logged = client.get_run(run.info.run_id).data.metrics
    by_step: dict[int, dict[str, float]] = {}
    for key, value in values.items():
        if key not in logged:
            by_step.setdefault(0, {})[key] = value
        elif logged[key] != value:
            last = max(metric.step for metric in client.get_metric_history(run.info.run_id, key))
            by_step.setdefault(last + 1, {})[key] = value
    for step, fresh in by_step.items():
        mlflow.log_metrics(fresh, step=step, model_id=model_id)

"""The trials of a search as a table, read from MLflow: for the stage's result, its plots and `make tune-results`.

A trial's run is a child of the tune run. It carries its number, state, rung and what was chosen for it as tags.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.records import queries
from tasks.search.earlier_trial import State

TRIAL = "tune.trial"  # tag of a trial's run: its number, from 0
STATE = "tune.state"  # tag: a `State`
RUNG = "tune.rung"  # tag: how many of the scheduler's decisions let it continue
VALUES = "tune.values"  # tag: the values chosen for it, as JSON
CONFIG_SHA256 = "tune.config_sha256"  # tag: SHA-256 of the whole recipe
METRIC = "tune.metric"  # tag of the tune run: the metric that decides which trial is best
SECONDS = "trial_seconds"  # metric of a trial's run: seconds for its epochs, validation included

_SMALLER_IS_BETTER = {"validation_loss"}


def run_status(state: State) -> str:
    """Return the status in MLflow of a run whose trial ended in this state."""
    return "FAILED" if state is State.FAILED else "FINISHED"


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    """From 0, in the order in which the searcher chose."""
    run_id: str
    state: str
    """A `State`."""
    rung: int
    """How many of the scheduler's decisions let it continue."""
    epochs: int
    best_value: float | None
    """The search's metric in the trial's best epoch; None before the first epoch."""
    history: tuple[float, ...]
    """The search's metric after each epoch."""
    values: dict[str, object] = field(hash=False)
    """What the searcher chose, by name."""
    seconds: float
    """Time for its epochs, validation included."""


def mode(metric: str) -> str:
    """Return `max` or `min`: whether a higher or a lower `metric` is better."""
    return "min" if metric in _SMALLER_IS_BETTER else "max"


def best_of(values: Iterable[float], metric: str) -> float | None:
    """Return the best of some values of `metric`; None when there are none."""
    return (min if mode(metric) == "min" else max)(values, default=None)


def best_trial(rows: Sequence[TrialRow], metric: str) -> TrialRow | None:
    """Return the trial with the best value that did not fail; of equal ones the first."""
    good = [row for row in rows if row.state != State.FAILED and row.best_value is not None]
    sign = 1.0 if mode(metric) == "min" else -1.0
    return min(good, key=lambda row: (sign * (row.best_value or 0.0), row.number), default=None)


def read(tune_run_id: str) -> list[TrialRow]:
    """Read the trials of a search, finished or not, by number.

    Raises:
        MlflowException: MLflow has no such run.
    """
    client = MlflowClient()
    tune = client.get_run(tune_run_id)
    metric = tune.data.tags.get(METRIC) or tune.data.params["metric"]
    return [_row(client, run, metric) for run in trial_runs(tune.info.experiment_id, tune_run_id)]


def trial_runs(experiment_id: str, tune_run_id: str) -> list[Run]:
    """List the runs of a search's trials by number, without those deleted in MLflow."""
    found = queries.all_runs(experiment_id, {"mlflow.parentRunId": tune_run_id, TRIAL: queries.PRESENT})
    return sorted(found, key=lambda run: (int(run.data.tags[TRIAL]), run.info.start_time))


def _row(client: MlflowClient, run: Run, metric: str) -> TrialRow:
    tags, metrics = run.data.tags, run.data.metrics
    points = client.get_metric_history(run.info.run_id, metric) if metric in metrics else []
    history = tuple(point.value for point in sorted(points, key=lambda point: point.step))
    until = run.info.end_time or int(time.time() * 1000)
    return TrialRow(
        number=int(tags[TRIAL]),
        run_id=str(run.info.run_id),
        state=tags.get(STATE, State.RUNNING),
        rung=int(tags.get(RUNG, "0")),
        epochs=len(history),
        best_value=best_of(history, metric),
        history=history,
        values=json.loads(tags.get(VALUES, "{}")),
        seconds=metrics.get(SECONDS, (until - run.info.start_time) / 1000),
    )

"""Prints the trials of a search, best first: `python -m tasks tune-results`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from mlflow import MlflowClient

from tasks.errors import DataError
from tasks.records import queries, tracking
from tasks.search.earlier_trial import State
from tasks.search.table import METRIC, TrialRow, mode, read
from tasks.settings import load_settings
from tasks.text_table import short, table


def newest(experiment_id: str) -> str:
    """Return the run ID of the newest search, which may still be running.

    Raises:
        DataError: no search has run yet.
    """
    found = queries.newest_run(experiment_id, {"pipeline.stage": "tune"})
    if found is None:
        raise DataError("no search has run yet; start one with `make tune TRIALS=20`")
    return str(found.info.run_id)


def best_first(rows: Sequence[TrialRow], metric: str) -> list[TrialRow]:
    """Order trials: those with a value from best to worst, then those without one, then the failed ones."""
    sign = 1.0 if mode(metric) == "min" else -1.0
    return sorted(
        rows,
        key=lambda row: (
            row.state == State.FAILED,
            row.best_value is None,
            sign * (row.best_value or 0.0),
            row.number,
        ),
    )


def lay_out(rows: Sequence[TrialRow], metric: str) -> str:
    """Lay trials out as a table: one column per hyperparameter that was searched."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    header = ("trial", "state", "rung", "epochs", metric, *names, "seconds", "run ID")
    return table(
        header,
        [
            (
                *(str(row.number), row.state, str(row.rung), str(row.epochs)),
                "-" if row.best_value is None else f"{row.best_value:.4f}",
                *(short(row.values.get(name)) for name in names),
                *(f"{row.seconds:.1f}", row.run_id),
            )
            for row in rows
        ],
    )


def show(run_id: str | None, limit: int | None, as_json: bool) -> None:
    """Print the trials of a search, by default the newest one's, as a table or as one JSON object per line.

    Raises:
        DataError: there is no such search.
    """
    experiment_id = tracking.connect(load_settings())
    run_id = run_id or newest(experiment_id)
    metric = tracking.tag_of(run_id, METRIC)
    found = read(run_id)
    rows = best_first(found, metric)[:limit]
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    run = MlflowClient().get_run(run_id)
    states = ", ".join(f"{count} {state}" for state in State if (count := sum(row.state == state for row in found)))
    dag_run = f"{run.data.tags['pipeline.dag_id']} {run.data.tags['pipeline.dag_run_id']}"
    print(f"search {run_id} of {dag_run}, {run.info.status.lower()}: {states or 'no trial yet'}\n")
    if rows:
        print(lay_out(rows, metric))

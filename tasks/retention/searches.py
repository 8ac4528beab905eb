"""Finds and removes the state of abandoned searches, in their own storage, which few programs have keys for."""

from __future__ import annotations

from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.records import tracking
from tasks.retention.known_runs import dag_run_of, time_of
from tasks.retention.leftovers import Kind, Leftover, Store
from tasks.search.storage import SearchStorage, credentials, searches
from tasks.settings import Settings


def find(settings: Settings, before: datetime, store: Store) -> list[Leftover]:
    """List the searches of DAG runs that were last active before `before`, and those of deleted runs."""
    old, found = store.old(before), []
    with credentials(settings):
        for run_id in searches(settings):
            if run_id in old:
                found.append(store.leftover(Kind.SEARCH, old[run_id]))
            elif run_id not in store.runs and (gone := _deleted(run_id)) and time_of(gone.info.start_time) < before:
                found.append(Leftover(Kind.SEARCH, run_id, f"{'/'.join(dag_run_of(gone))} deleted run", None))
    return found


def remove(leftover: Leftover, settings: Settings) -> None:
    """Remove the state of a search."""
    with credentials(settings):
        SearchStorage(settings, leftover.run_id).remove()


def _deleted(run_id: str) -> Run | None:
    """Return a run that was deleted in MLflow; None for one that still exists, or that this MLflow never had."""
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if tracking.http_status(error) != 404:
            raise
        return None
    return run if run.info.lifecycle_stage == "deleted" else None

"""Finds and removes what runs left behind and nothing needs any longer: the stage clean, and `make gc`.

| what | left by | removed |
|---|---|---|
| an unfinished run | a lost machine, a task that nobody retried | it is marked as KILLED |
| gold | a `prepare` run whose data no model version was trained or judged with | the artifact folder |
| decoded images | a `prepare` that was killed and not tried again | the artifact folder |
| checkpoints | a training whose model is registered, or that led to no model version | the artifact folder |
| weights | a candidate that was refused, or never registered, longer ago than PIPELINE_KEEP_WEIGHTS_DAYS | its files |
| state of a search | an abandoned search | its folder in the storage of searches (only by `make gc`) |

Never removed: anything of a DAG run that was active within the given days; anything but checkpoints and weights that a
registered version, a ledger record or a reused result refers to, directly or through other runs; the newest gold of a
data set, which the next run reuses; weights as `tasks.retention.weights` says. The MLflow runs themselves stay:
deleting those is up to MLflow (`mlflow gc`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.records import artifact_names, queries, tracking
from tasks.retention import known_runs, weights
from tasks.retention.known_runs import KnownRun, time_of
from tasks.retention.served import Served
from tasks.retention.weights import OldWeights
from tasks.settings import Settings

log = logging.getLogger("tasks.clean")


class Kind(StrEnum):
    """The kinds of leftovers."""

    RUN = "unfinished run"
    GOLD = "gold"
    DECODED = "decoded images"
    CHECKPOINTS = "checkpoints"
    WEIGHTS = "weights"
    SEARCH = "state of a search"


FOLDERS = {
    Kind.GOLD: artifact_names.GOLD,
    Kind.DECODED: artifact_names.DECODED,
    Kind.CHECKPOINTS: artifact_names.CHECKPOINTS,
}
# Listing a folder takes milliseconds, and there are thousands of runs: only stages that write a kind are looked at.
WRITERS = {
    "prepare": (Kind.GOLD, Kind.DECODED),
    "train": (Kind.CHECKPOINTS,),
    "compress": (Kind.CHECKPOINTS,),
}


@dataclass(frozen=True)
class Leftover:
    """One thing that nothing needs any longer."""

    kind: Kind
    run_id: str
    of: str
    """DAG run and stage that made it."""
    since: datetime | None
    """Last activity of its DAG run, UTC; None for a deleted run."""
    size: int | None = None
    """Bytes."""
    weights: OldWeights | None = None
    """More about weights."""


@dataclass(frozen=True)
class Store:
    """What MLflow holds, read once: its runs, and when their DAG runs were active last.

    Attributes:
        experiment_id: of the runs.
        runs: by their IDs.
        last: last activity of each DAG run, UTC.
        began: when the reading began, UTC.
    """

    experiment_id: str
    runs: dict[str, KnownRun]
    last: dict[tuple[str, str], datetime]
    began: datetime

    @classmethod
    def read(cls, settings: Settings, before: datetime) -> Store:
        """Read it, for a search for what was last active before `before` or, for weights, before the setting's days."""
        began = datetime.now(UTC)
        experiment_id = tracking.connect(settings)
        runs = known_runs.read(experiment_id, before, min(before, keep_weights_since(settings, before) or before))
        last: dict[tuple[str, str], datetime] = {}
        for run in runs.values():
            last[run.dag_run] = max(last.get(run.dag_run, run.active), run.active)
        return cls(experiment_id, runs, last, began)

    def old(self, before: datetime) -> dict[str, KnownRun]:
        """Return the runs of DAG runs that were last active before `before`."""
        return {run_id: run for run_id, run in self.runs.items() if self.last[run.dag_run] < before}

    def leftover(self, kind: Kind, run: KnownRun, size: int | None = None, found: OldWeights | None = None) -> Leftover:
        """Describe something that a run left."""
        return Leftover(kind, run.run_id, f"{'/'.join(run.dag_run)} {run.stage}", self.last[run.dag_run], size, found)


def keep_weights_since(settings: Settings, before: datetime) -> datetime | None:
    """Return the time from which on weights are kept, never later than `before`; None: they always are."""
    days = settings.pipeline_keep_weights_days
    return min(before, datetime.now(UTC) - timedelta(days=days)) if days else None


def find(settings: Settings, before: datetime, store: Store | None = None) -> list[Leftover]:
    """List the leftovers of DAG runs that were last active before `before`, without searches; nothing is changed.

    Args:
        settings: where MLflow is, and how long weights are kept.
        before: a time, UTC.
        store: what was read of MLflow; None: it is read now.

    Raises:
        ChangedError: the ledger is not as the pipeline wrote it.
        UnavailableError: a server that has to be asked does not answer.
    """
    store = store or Store.read(settings, before)
    old = store.old(before)
    needed = known_runs.needed(store.runs, [run_id for run_id in store.runs if run_id not in old])
    registered = {version.run_id for version in queries.find_versions()}
    in_use = known_runs.reached(store.runs, [run_id for run_id in store.runs if run_id not in old])
    found = [store.leftover(Kind.RUN, run) for run in old.values() if not run.ended]
    kept = {Kind.GOLD: needed, Kind.DECODED: set[str](), Kind.CHECKPOINTS: needed - registered | in_use}
    for run_id, run in old.items():
        for kind in WRITERS.get(run.stage, ()):
            if run_id not in kept[kind] and (size := _size(run.artifact_uri, FOLDERS[kind])) is not None:
                found.append(store.leftover(kind, run, size))
    if (since := keep_weights_since(settings, before)) is not None:
        found += _weights(settings, store, since)
    return found


def _weights(settings: Settings, store: Store, since: datetime) -> Iterator[Leftover]:
    for old in weights.find(store.runs, store.last, since, Served(settings)):
        yield store.leftover(Kind.WEIGHTS, store.runs[old.run_id], old.size, old)


def used_again(leftover: Leftover, store: Store, before: datetime) -> bool:
    """Tell whether a run has used a leftover since it was found, such as a prepare that reuses its gold."""
    if leftover.weights is not None:
        return weights.used_again(leftover.weights, store.experiment_id, store.began)
    gold = {artifact_names.GOLD_RUN: leftover.run_id}
    users = queries.find_runs(store.experiment_id, gold) if leftover.kind is Kind.GOLD else [_run(leftover)]
    return any(time_of(max(run.info.start_time, run.info.end_time or 0)) >= before for run in users)


def remove(leftover: Leftover) -> None:
    """Remove one leftover; an unfinished run is marked as ended instead, at its last activity."""
    client = MlflowClient()
    if leftover.weights is not None:
        weights.remove(leftover.weights, datetime.now(UTC))
    elif leftover.kind is Kind.RUN:
        assert leftover.since is not None  # noqa: S101  # only a deleted run's is unknown
        since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
        client.set_tag(leftover.run_id, tracking.ERROR_TAG, f"no activity since {since}; ended by clean")
        client.set_terminated(leftover.run_id, "KILLED", end_time=int(leftover.since.timestamp() * 1000))
    else:
        get_artifact_repository(_run(leftover).info.artifact_uri).delete_artifacts(FOLDERS[leftover.kind])  # type: ignore[no-untyped-call]


def _run(leftover: Leftover) -> Run:
    return MlflowClient().get_run(leftover.run_id)


def _size(artifact_uri: str, folder: str) -> int | None:
    """Count the bytes in an artifact folder of a run; None without such a folder."""
    files = get_artifact_repository(artifact_uri).list_artifacts(folder)
    return sum(file.file_size or 0 for file in files) if files else None

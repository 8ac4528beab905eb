"""Finds and removes what runs left behind and nothing needs any longer: `python -m tasks gc`, `make gc`.

| what | left by | removed |
|---|---|---|
| an unfinished run | a lost machine, a task that nobody retried | it is marked as KILLED |
| gold | a `prepare` run whose data no model version was trained or judged with | the artifact folder |
| checkpoints | a training that led to no model version | the artifact folder |
| state of a search | an abandoned search | its folder in the storage of searches |

Never removed: anything of a DAG run that was active within the given days; anything that a registered version, a
ledger record or a reused result refers to, directly or through other runs; the newest gold of a data set, which the
next run reuses. The MLflow runs themselves stay: deleting those is up to MLflow (`mlflow gc`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.cli import known_runs
from tasks.cli.known_runs import KnownRun, dag_run_of, time_of
from tasks.records import checkpoint_store, gold_store, queries, tracking
from tasks.search.storage import SearchStorage, credentials, searches
from tasks.settings import Settings, load_settings
from tasks.text_table import columns

HEADER = ("what", "of", "run ID", "idle since (UTC)", "MB")


class Kind(StrEnum):
    """The kinds of leftovers."""

    RUN = "unfinished run"
    GOLD = "gold"
    CHECKPOINTS = "checkpoints"
    SEARCH = "state of a search"


FOLDERS = {Kind.GOLD: gold_store.ARTIFACT, Kind.CHECKPOINTS: checkpoint_store.ARTIFACT}
# Listing a folder takes milliseconds, and there are thousands of runs: only the stage that writes a kind is looked at.
WRITERS = {"prepare": Kind.GOLD, "train": Kind.CHECKPOINTS}


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


def find(settings: Settings, before: datetime) -> list[Leftover]:
    """List the leftovers of DAG runs that were last active before `before`; nothing is changed."""
    experiment_id = tracking.connect(settings)
    runs = known_runs.read(experiment_id, before)
    last: dict[tuple[str, str], datetime] = {}
    for run in runs.values():
        last[run.dag_run] = max(last.get(run.dag_run, run.active), run.active)
    old = {run_id: run for run_id, run in runs.items() if last[run.dag_run] < before}
    needed = known_runs.needed(runs, [run_id for run_id in runs if run_id not in old])

    def leftover(kind: Kind, run: KnownRun, size: int | None = None) -> Leftover:
        return Leftover(kind, run.run_id, f"{'/'.join(run.dag_run)} {run.stage}", last[run.dag_run], size)

    found = [leftover(Kind.RUN, run) for run in old.values() if not run.ended]
    for run_id, run in old.items():
        kind = WRITERS.get(run.stage)
        if kind and run_id not in needed and (size := _size(run.artifact_uri, FOLDERS[kind])) is not None:
            found.append(leftover(kind, run, size))
    with credentials(settings):
        for run_id in searches(settings):
            if run_id in old:
                found.append(leftover(Kind.SEARCH, old[run_id]))
            elif run_id not in runs and (gone := _deleted(run_id)) and time_of(gone.info.start_time) < before:
                found.append(Leftover(Kind.SEARCH, run_id, f"{'/'.join(dag_run_of(gone))} deleted run", None))
    return found


def used_again(leftover: Leftover, experiment_id: str, before: datetime) -> bool:
    """Tell whether a run has used a leftover since it was found, such as a prepare that reuses its gold."""
    gold = {gold_store.GOLD_RUN: leftover.run_id}
    users = queries.find_runs(experiment_id, gold) if leftover.kind is Kind.GOLD else [_run(leftover)]
    return any(time_of(max(run.info.start_time, run.info.end_time or 0)) >= before for run in users)


def remove(leftover: Leftover, settings: Settings) -> None:
    """Remove one leftover; an unfinished run is marked as ended instead, at its last activity."""
    client = MlflowClient()
    if leftover.kind is Kind.RUN:
        assert leftover.since is not None  # noqa: S101  # only a deleted run's is unknown
        since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
        client.set_tag(leftover.run_id, tracking.ERROR_TAG, f"no activity since {since}; ended by make gc")
        client.set_terminated(leftover.run_id, "KILLED", end_time=int(leftover.since.timestamp() * 1000))
    elif leftover.kind is Kind.SEARCH:
        with credentials(settings):
            SearchStorage(settings, leftover.run_id).remove()
    else:
        get_artifact_repository(_run(leftover).info.artifact_uri).delete_artifacts(FOLDERS[leftover.kind])  # type: ignore[no-untyped-call]


def _run(leftover: Leftover) -> Run:
    return MlflowClient().get_run(leftover.run_id)


def _deleted(run_id: str) -> Run | None:
    """Return a run that was deleted in MLflow; None for one that still exists, or that this MLflow never had."""
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if tracking.http_status(error) != 404:
            raise
        return None
    return run if run.info.lifecycle_stage == "deleted" else None


def _size(artifact_uri: str, folder: str) -> int | None:
    """Count the bytes in an artifact folder of a run; None without such a folder."""
    files = get_artifact_repository(artifact_uri).list_artifacts(folder)
    return sum(file.file_size or 0 for file in files) if files else None


def show(found: Iterable[Leftover]) -> str:
    """Lay leftovers out as a table."""
    rows = [
        (
            *(str(item.kind), item.of, item.run_id),
            f"{item.since:%Y-%m-%d %H:%M}" if item.since else "-",
            "-" if item.size is None else f"{item.size / 1e6:.1f}",
        )
        for item in found
    ]
    return columns([HEADER, *rows])


def collect(days: float, apply: bool) -> None:
    """Print the leftovers of DAG runs that have been idle for `days`; with `apply` remove them."""
    settings = load_settings().with_the_stacks_ray()
    before = datetime.now(UTC) - timedelta(days=days)
    found = find(settings, before)
    if not found:
        print(f"MLflow: nothing is left over from DAG runs that have been idle for {days:g} days")
        return
    print(show(found))
    if not apply:
        print(f"\n{len(found)} would be removed; APPLY=1 removes them")
        return
    experiment_id = tracking.connect(settings)
    kept = []
    for item in found:
        if used_again(item, experiment_id, before):
            kept.append(item)
        else:
            remove(item, settings)
    print(f"\n{len(found) - len(kept)} removed" + "".join(f"; {item.kind} of {item.of} is used again" for item in kept))

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

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.records import checkpoint_store, gold_store, ledger, tracking
from tasks.records.paging import PAGE, all_pages
from tasks.search.storage import SearchStorage, credentials, searches
from tasks.settings import Settings, load_settings
from tasks.text_table import columns

REFERENCE = "_run_id"  # suffix of tags and parameters that hold the ID of another run
DATASET = "dataset"
HEADER = ("what", "of", "run ID", "idle since (UTC)", "MB")


class Kind(StrEnum):
    """The kinds of leftovers."""

    RUN = "unfinished run"
    GOLD = "gold"
    CHECKPOINTS = "checkpoints"
    SEARCH = "state of a search"


FOLDERS = {Kind.GOLD: gold_store.ARTIFACT, Kind.CHECKPOINTS: checkpoint_store.ARTIFACT}


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
    runs = {str(run.info.run_id): run for run in _all_runs(tracking.connect(settings))}
    last = _last_activity(runs.values(), before)
    old = {run_id: run for run_id, run in runs.items() if last[_dag_run(run)] < before}
    needed = _needed(runs, [run_id for run_id in runs if run_id not in old])

    def leftover(kind: Kind, run: Run, size: int | None = None) -> Leftover:
        stage = run.data.tags.get("pipeline.stage", "?")
        return Leftover(kind, str(run.info.run_id), f"{'/'.join(_dag_run(run))} {stage}", last[_dag_run(run)], size)

    found = [leftover(Kind.RUN, run) for run in old.values() if not _ended(run)]
    for run_id, run in old.items():
        if run_id in needed:
            continue
        for kind, folder in FOLDERS.items():
            size = _size(run, folder)
            if size is not None:
                found.append(leftover(kind, run, size))
    with credentials(settings):
        for run_id in searches(settings):
            if run_id in old:
                found.append(leftover(Kind.SEARCH, old[run_id]))
            elif run_id not in runs and (gone := _deleted(run_id)) and _time(gone.info.start_time) < before:
                found.append(Leftover(Kind.SEARCH, run_id, f"{'/'.join(_dag_run(gone))} deleted run", None))
    return found


def remove(leftover: Leftover, settings: Settings) -> None:
    """Remove one leftover; an unfinished run is marked as ended instead."""
    client = MlflowClient()
    if leftover.kind is Kind.RUN:
        since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
        client.set_tag(leftover.run_id, tracking.ERROR_TAG, f"no activity since {since}; ended by make gc")
        client.set_terminated(leftover.run_id, "KILLED")
    elif leftover.kind is Kind.SEARCH:
        with credentials(settings):
            SearchStorage(settings, leftover.run_id).remove()
    else:
        root = client.get_run(leftover.run_id).info.artifact_uri
        get_artifact_repository(root).delete_artifacts(FOLDERS[leftover.kind])  # type: ignore[no-untyped-call]


def _all_runs(experiment_id: str) -> Iterator[Run]:
    client, text = MlflowClient(), "tags.`pipeline.dag_run_id` != ''"
    return all_pages(
        lambda size, token: client.search_runs([experiment_id], text, ViewType.ACTIVE_ONLY, size, page_token=token)
    )


def _deleted(run_id: str) -> Run | None:
    """Return a run that was deleted in MLflow; None for one that still exists, or that this MLflow never had."""
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if tracking.http_status(error) != 404:
            raise
        return None
    return run if run.info.lifecycle_stage == "deleted" else None


def _dag_run(run: Run) -> tuple[str, str]:
    return run.data.tags.get("pipeline.dag_id", ""), run.data.tags["pipeline.dag_run_id"]


def _ended(run: Run) -> bool:
    return bool(RunStatus.is_terminated(RunStatus.from_string(run.info.status)))


def _last_activity(runs: Iterable[Run], before: datetime) -> dict[tuple[str, str], datetime]:
    """Find when each DAG run was last active; the metrics of an unfinished run count as well."""
    last: dict[tuple[str, str], datetime] = defaultdict(lambda: datetime.fromtimestamp(0, UTC))
    for run in runs:
        active = _time(max(run.info.start_time, run.info.end_time or 0))
        if not _ended(run) and active < before:
            active = max([active, *_metric_times(run)])
        last[_dag_run(run)] = max(last[_dag_run(run)], active)
    return last


def _metric_times(run: Run) -> Iterator[datetime]:
    for name in run.data.metrics:
        yield max(_time(point.timestamp) for point in MlflowClient().get_metric_history(run.info.run_id, name))


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _needed(runs: Mapping[str, Run], alive: Iterable[str]) -> set[str]:
    """Find the IDs of the runs that anything to keep refers to, directly or through other runs."""
    todo = [*alive, *_newest_gold(runs.values())]
    for model in MlflowClient().search_registered_models(max_results=PAGE):
        for version in _versions(model.name):
            todo += [version.run_id or "", *_references(version.tags)]
    for record in ledger.history(limit=sys.maxsize):
        todo.append(record.entry.evidence_run_id or "")
    needed = set[str]()
    while todo:
        run_id = todo.pop()
        if run_id in runs and run_id not in needed:
            needed.add(run_id)
            data = runs[run_id].data
            todo += [*_references(data.tags), *_references(data.params), data.tags.get(tracking.REUSED_FROM, "")]
    return needed


def _newest_gold(runs: Iterable[Run]) -> set[str]:
    """Find the run that holds the newest gold of each data set."""
    newest: dict[str, Run] = {}
    for run in runs:
        if run.data.tags.get(gold_store.GOLD_RUN) == run.info.run_id:
            name = run.data.params.get(DATASET, "")
            if name not in newest or run.info.start_time > newest[name].info.start_time:
                newest[name] = run
    return {str(run.info.run_id) for run in newest.values()}


def _versions(name: str) -> Iterator[ModelVersion]:
    client = MlflowClient()
    return all_pages(
        lambda size, token: client.search_model_versions(f"name = '{name}'", max_results=size, page_token=token)
    )


def _references(names: Mapping[str, str]) -> list[str]:
    return [value for name, value in names.items() if name.endswith(REFERENCE)]


def _size(run: Run, folder: str) -> int | None:
    """Count the bytes in an artifact folder of a run; None without such a folder."""
    files = MlflowClient().list_artifacts(run.info.run_id, folder)
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
    found = find(settings, datetime.now(UTC) - timedelta(days=days))
    if not found:
        print(f"MLflow: nothing is left over from DAG runs that have been idle for {days:g} days")
        return
    print(show(found))
    if not apply:
        print(f"\n{len(found)} would be removed; APPLY=1 removes them")
        return
    for item in found:
        remove(item, settings)
    print(f"\n{len(found)} removed")

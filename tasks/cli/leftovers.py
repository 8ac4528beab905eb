"""What runs left behind that nothing needs any more: `make gc`.

| what | left by | removed |
|---|---|---|
| a run without an end | a machine that was lost, a task that nobody tried again | it is ended, as KILLED |
| gold | a prepare run whose data no version was trained on or judged with | the artifact folder |
| checkpoints | a training of which no version was made | the artifact folder |
| state of a search | a search that was given up | its folder in the storage |

Nothing of a DAG run that showed a sign of life within those days; nothing that a registered version, a record of the
ledger or a reused result refers to, directly or by the runs in between; and not the newest gold of a data set, which
the next run takes. Runs themselves stay: deleting them is MLflow's own business (`mlflow gc`).
"""

from __future__ import annotations

import argparse
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

from tasks.errors import exit_code_of
from tasks.records import checkpoint_store, gold_store, ledger, tracking
from tasks.records.paging import PAGE, all_pages
from tasks.search.storage import SearchStorage, credentials, searches
from tasks.settings import Settings, load_settings
from tasks.text_table import columns

DAYS = 7.0
REFERENCE = "_run_id"  # ends the names of tags and parameters that hold the ID of another run
DATASET = "dataset"
HEADER = ("what", "of", "run ID", "since (UTC)", "MB")


class Kind(StrEnum):
    """What is left."""

    RUN = "run without an end"
    GOLD = "gold"
    CHECKPOINTS = "checkpoints"
    SEARCH = "state of a search"


FOLDERS = {Kind.GOLD: gold_store.ARTIFACT, Kind.CHECKPOINTS: checkpoint_store.ARTIFACT}


@dataclass(frozen=True)
class Leftover:
    """One thing that nothing needs."""

    kind: Kind
    run_id: str
    of: str
    """DAG run and stage."""
    since: datetime | None
    """Last sign of life of its DAG run, UTC; None of a run that was deleted."""
    size: int | None = None
    """Bytes."""


def find(settings: Settings, before: datetime) -> list[Leftover]:
    """List what is left of DAG runs whose last sign of life came before `before`; nothing is changed."""
    runs = {str(run.info.run_id): run for run in _all_runs(tracking.connect(settings))}
    last = _last_signs(runs.values(), before)
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
    """Remove one; a run is ended."""
    client = MlflowClient()
    if leftover.kind is Kind.RUN:
        since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
        client.set_tag(leftover.run_id, tracking.ERROR_TAG, f"no sign of life since {since}; ended by make gc")
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
    """Return a run that was deleted in MLflow; None for one that is there, or that is another MLflow's."""
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


def _last_signs(runs: Iterable[Run], before: datetime) -> dict[tuple[str, str], datetime]:
    """When each DAG run last did something; of one that has a run without an end its metrics tell it too."""
    last: dict[tuple[str, str], datetime] = defaultdict(lambda: datetime.fromtimestamp(0, UTC))
    for run in runs:
        sign = _time(max(run.info.start_time, run.info.end_time or 0))
        if not _ended(run) and sign < before:
            sign = max([sign, *_metric_times(run)])
        last[_dag_run(run)] = max(last[_dag_run(run)], sign)
    return last


def _metric_times(run: Run) -> Iterator[datetime]:
    for name in run.data.metrics:
        yield max(_time(point.timestamp) for point in MlflowClient().get_metric_history(run.info.run_id, name))


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _needed(runs: Mapping[str, Run], alive: Iterable[str]) -> set[str]:
    """IDs of the runs that something refers to that stays, and of all that those refer to."""
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
    """The run that holds the newest gold of each data set."""
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
    """Bytes in an artifact folder of a run; None where there is none."""
    files = MlflowClient().list_artifacts(run.info.run_id, folder)
    return sum(file.file_size or 0 for file in files) if files else None


def show(found: Iterable[Leftover]) -> str:
    """Lay them out as a table."""
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
    """Print what is left, and remove it where `apply` says so."""
    settings = load_settings().with_the_stacks_ray()
    found = find(settings, datetime.now(UTC) - timedelta(days=days))
    if not found:
        print(f"MLflow: nothing is left over of DAG runs without a sign of life for {days:g} days")
        return
    print(show(found))
    if not apply:
        print(f"\n{len(found)} would be removed; nothing was. APPLY=1 removes them.")
        return
    for item in found:
        remove(item, settings)
    print(f"\n{len(found)} removed")


def main(arguments: list[str] | None = None) -> int:
    """List or remove; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.cli.leftovers", description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=float, default=DAYS, help="without a sign of life (%(default)g)")
    parser.add_argument("--apply", action="store_true", help="remove them; otherwise they are only listed")
    options = parser.parse_args(arguments)
    if options.days < 0:
        parser.error(f"--days={options.days:g}: give 0 or more")
    return exit_code_of(lambda: collect(options.days, options.apply))


if __name__ == "__main__":
    sys.exit(main())

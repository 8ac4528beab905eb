"""What a cleaning remembers of each MLflow run, and which runs others need: little, because there are many."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from tasks.contract.stages import STAGES
from tasks.records import artifact_names, ledger, queries, registry, tracking

REFERENCE = "_run_id"  # suffix of tags and parameters that hold the ID of another run
DATASET = "dataset"
CLOCKS = timedelta(hours=1)  # by which the clocks of the machines that start runs may differ
# No run, version or ledger record refers to a run of these.
LAST_OF_A_DAY = {"register", "deploy", "rollback", "clean", "predict"}
REFERRED_TO = [stage for stage in STAGES if stage not in LAST_OF_A_DAY]
UNFINISHED = ("RUNNING", "SCHEDULED")
VERSION = re.compile(r"models:/([^/@]+/[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class KnownRun:
    """One run, without what a cleaning has no use for."""

    run_id: str
    dag_run: tuple[str, str]
    """IDs of its DAG and DAG run."""
    stage: str
    started: int
    """Milliseconds since 1970."""
    active: datetime
    """When it began, ended or logged a metric last, UTC."""
    ended: bool
    artifact_uri: str
    gold_of: str | None
    """The data set whose gold it made; None if it made none."""
    references: tuple[str, ...]
    """IDs of the runs that it refers to."""
    versions: tuple[str, ...]
    """Versions that it refers to, NAME/NUMBER."""
    model_uri: str | None
    """Of the model that it logged."""
    model_sha256: str | None
    """Of that model's architecture and weights."""

    @classmethod
    def of(cls, run: Run, before: datetime) -> Self:
        """Take from a run what is needed; what an unfinished one did is looked up if it began before `before`."""
        info, data = run.info, run.data
        active = time_of(max(info.start_time, info.end_time or 0))
        ended = bool(RunStatus.is_terminated(RunStatus.from_string(info.status)))
        if not ended and active < before:
            active = max([active, *_metric_times(run)])
        made_gold = data.tags.get(artifact_names.GOLD_RUN) == info.run_id
        references = [*references_in(data.tags), *references_in(data.params), data.tags.get(tracking.REUSED_FROM)]
        return cls(
            run_id=str(info.run_id),
            dag_run=dag_run_of(run),
            stage=data.tags.get("pipeline.stage", "?"),
            started=int(info.start_time),
            active=active,
            ended=ended,
            artifact_uri=str(info.artifact_uri),
            gold_of=data.params.get(DATASET, "") if made_gold else None,
            references=tuple(reference for reference in references if reference),
            versions=tuple(
                found[1]
                for value in (*data.tags.values(), *data.params.values())
                if (found := VERSION.fullmatch(value)) is not None
            ),
            model_uri=data.tags.get(artifact_names.MODEL_URI),
            model_sha256=data.tags.get(registry.SHA256),
        )


def read(experiment_id: str, before: datetime, since: datetime) -> dict[str, KnownRun]:
    """Read the runs of DAG runs, by ID: those that others refer to, that have not ended, or were active since `since`.

    Whether an unfinished one that began before `before` shows a sign of life is looked up.

    MLflow takes about a second for a thousand runs, so the many that are none of these are left out: searches' trials,
    and old runs of the last stages of a day. Runs that are started meanwhile may refer to old ones, so they are read
    last.
    """
    any_dag_run = {"pipeline.dag_run_id": queries.PRESENT}
    began, active = milliseconds(datetime.now(UTC) - CLOCKS), milliseconds(since)
    found: dict[str, KnownRun] = {}
    for runs in (
        *(queries.all_runs(experiment_id, {**any_dag_run, "pipeline.stage": stage}) for stage in REFERRED_TO),
        *(queries.all_runs(experiment_id, any_dag_run, status=status) for status in UNFINISHED),
        queries.all_runs(experiment_id, any_dag_run, ended=active),
        queries.all_runs(experiment_id, any_dag_run, started=active),
        queries.all_runs(experiment_id, any_dag_run, started=began),
    ):
        found |= {str(run.info.run_id): KnownRun.of(run, before) for run in runs}
    return found


def active_now(experiment_id: str, since: datetime) -> Iterator[KnownRun]:
    """Yield the runs of DAG runs that began or ended since a time, or have not ended."""
    any_dag_run, time = {"pipeline.dag_run_id": queries.PRESENT}, milliseconds(since)
    for runs in (
        *(queries.all_runs(experiment_id, any_dag_run, status=status) for status in UNFINISHED),
        queries.all_runs(experiment_id, any_dag_run, started=time),
        queries.all_runs(experiment_id, any_dag_run, ended=time),
    ):
        yield from (KnownRun.of(run, time_of(0)) for run in runs)


def needed(runs: Mapping[str, KnownRun], alive: Iterable[str]) -> set[str]:
    """Find the IDs of the runs that anything to keep refers to, directly or through other runs."""
    return reached(runs, [*alive, *_newest_gold(runs.values()), *_registered(), *_evidence()])


def reached(runs: Mapping[str, KnownRun], beginning: Iterable[str]) -> set[str]:
    """Find the IDs of the runs that some lead to, directly or through other runs, and of these themselves."""
    todo = list(beginning)
    found = set[str]()
    while todo:
        run_id = todo.pop()
        if run_id in runs and run_id not in found:
            found.add(run_id)
            todo += runs[run_id].references
    return found


def _registered() -> Iterator[str]:
    """Yield what the versions of all registered models refer to."""
    for version in queries.find_versions():
        yield version.run_id or ""
        yield from references_in(version.tags)


def _evidence() -> Iterator[str]:
    """Yield what the records of the ledger refer to."""
    for record in ledger.history():
        yield record.entry.evidence_run_id or ""


def _newest_gold(runs: Iterable[KnownRun]) -> set[str]:
    """Find the run that holds the newest gold of each data set."""
    newest: dict[str, KnownRun] = {}
    for run in runs:
        if run.gold_of is not None and (run.gold_of not in newest or run.started > newest[run.gold_of].started):
            newest[run.gold_of] = run
    return {run.run_id for run in newest.values()}


def references_in(names: Mapping[str, str]) -> list[str]:
    """List the run IDs in tags or parameters."""
    return [value for name, value in names.items() if name.endswith(REFERENCE)]


def dag_run_of(run: Run) -> tuple[str, str]:
    """Return the IDs of a run's DAG and DAG run."""
    return run.data.tags.get("pipeline.dag_id", ""), run.data.tags["pipeline.dag_run_id"]


def time_of(milliseconds: int) -> datetime:
    """Turn MLflow's milliseconds since 1970 into a time, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(time: datetime) -> int:
    """Turn a time into MLflow's milliseconds since 1970."""
    return int(time.timestamp() * 1000)


def _metric_times(run: Run) -> Iterator[datetime]:
    for name in run.data.metrics:
        yield max(time_of(point.timestamp) for point in MlflowClient().get_metric_history(run.info.run_id, name))

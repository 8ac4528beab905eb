"""Finds the weights that nobody needs any longer: of candidates refused long ago, and of models never registered.

The run, its figures, the model's description, the verdict on it and its model card stay. What is never found: the model
of a run that is active or was within the time, or that such a run refers to; of a version that an alias names, that is
or was champion, or that the service runs; of a compressed model's training; anything with the same digest as these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.records import removed_weights, tracking
from tasks.retention import candidates, known_runs
from tasks.retention.known_runs import KnownRun
from tasks.retention.served import Served

MADE_BY = {"train", "compress"}  # the stages that log a model


@dataclass(frozen=True)
class OldWeights:
    """Weights that nobody needs any longer."""

    run_id: str
    location: str
    """Where the logged model lies."""
    size: int
    """Bytes."""
    why: str
    versions: tuple[ModelVersion, ...]
    """Versions of the model, all refused."""


def find(
    runs: Mapping[str, KnownRun], last: Mapping[tuple[str, str], datetime], before: datetime, served: Served
) -> list[OldWeights]:
    """List the weights that nobody has needed since `before`; nothing is changed.

    Args:
        runs: all runs that others refer to, or that were active since `before`.
        last: last activity of each DAG run.
        before: a time, UTC.
        served: what the service runs; asked only if there is something to remove.

    Raises:
        ChangedError: the ledger is not as the pipeline wrote it.
        UnavailableError: a server that has to be asked does not answer.
    """
    active = [run for run in runs.values() if last[run.dag_run] >= before or not run.ended]
    idle = [run for run in runs.values() if run.stage in MADE_BY and run.ended and last[run.dag_run] < before]
    if not any(run.model_uri for run in idle):
        return []
    known = candidates.read(before, {version for run in active for version in run.versions})
    beginning = [run.run_id for run in active] + list(_referred_to(known.kept)) + list(known.evidence)
    needed = known_runs.reached(runs, beginning)
    found = []
    for run in idle:
        if run.run_id in needed or run.model_sha256 in known.kept_digests:
            continue
        location, size = _stored(run.model_uri or "")
        if location is None:
            continue
        refused = known.of_run(run.run_id)
        versions = tuple(version for version, _ in refused)
        if served.has(run.run_id, run.model_uri or "", versions):
            continue
        why = f"refused on {max(at for _, at in refused):%Y-%m-%d}" if refused else "never registered"
        found.append(OldWeights(run.run_id, location, size, why, versions))
    return found


def used_again(old: OldWeights, experiment_id: str, began: datetime) -> bool:
    """Tell whether anything refers to the weights since they were found.

    Args:
        old: what was found.
        experiment_id: of the runs.
        began: when the search for it began, UTC.
    """
    if candidates.named_now(old.versions, old.run_id):
        return True
    places = {f"{version.name}/{version.version}" for version in old.versions}
    # A retry goes on in the same run, which began long ago: so unfinished runs, and those that have just ended, count.
    later = known_runs.active_now(experiment_id, began - known_runs.CLOCKS)
    return any(old.run_id in {run.run_id, *run.references} or places & set(run.versions) for run in later)


def remove(old: OldWeights, now: datetime) -> None:
    """Say in tags that the weights go, then delete them. Killed in between, the next cleaning does the rest."""
    removed_weights.mark(old.run_id, old.versions, f"on {now:%Y-%m-%d} by clean: {old.why}")
    get_artifact_repository(old.location).delete_artifacts(removed_weights.FILES)  # type: ignore[no-untyped-call]


def _stored(model_uri: str) -> tuple[str | None, int]:
    """Return where a logged model lies, and the bytes of its weights; None if there are none."""
    model_id = model_uri.removeprefix("models:/")
    if not model_id.startswith("m-"):  # a run without a model, or of a release that logged it in another place
        return None, 0
    try:
        location = str(MlflowClient().get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if tracking.http_status(error) != 404:
            raise
        return None, 0
    files = get_artifact_repository(location).list_artifacts(removed_weights.FILES)
    return (location if files else None), sum(file.file_size or 0 for file in files)


def _referred_to(versions: tuple[ModelVersion, ...]) -> Iterator[str]:
    for version in versions:
        yield version.run_id or ""
        yield from known_runs.references_in(version.tags)

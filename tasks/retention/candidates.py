"""Which registered versions may lose their weights: candidates that were refused long ago and that nothing names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import ChangedError
from tasks.records import ledger, ledger_chain, queries, registry
from tasks.records.ledger import Kind, Record

NO_STAGE = {None, "", "None"}  # of MLflow's registry, as it writes it


@dataclass(frozen=True)
class Candidates:
    """All registered versions, by what may happen to their weights."""

    kept: tuple[ModelVersion, ...]
    refused: tuple[tuple[ModelVersion, datetime], ...]
    """Each with the time at which it was refused last, UTC."""
    evidence: tuple[str, ...]
    """Evaluate runs by which the alias champion moved, or may have."""

    @property
    def kept_digests(self) -> set[str]:
        """Digests of the kept weights: the same ones, logged by another run, stay too."""
        return {version.tags[registry.SHA256] for version in self.kept if registry.SHA256 in version.tags}

    def of_run(self, run_id: str) -> list[tuple[ModelVersion, datetime]]:
        """Return the refused versions of the model that a run made."""
        return [(version, at) for version, at in self.refused if version.run_id == run_id]


def read(before: datetime, in_use: Collection[str]) -> Candidates:
    """Sort all versions of all registered models.

    Refused are those that the ledger refused before `before`, and that no other record of it made champion, took out
    of service or could not deploy. A version is kept if an alias or a stage of the registry names it, if it is
    `in_use`, or if the ledger does not know it.

    Args:
        before: a refusal since then counts as new.
        in_use: versions that something else refers to, NAME/NUMBER.

    Raises:
        ChangedError: the ledger is not as the pipeline wrote it, so that a promotion may be missing in it.
    """
    versions = list(queries.find_versions())
    records = list(ledger.history())
    if faults := ledger_chain.broken(records):
        raise ChangedError(
            "nothing is removed, because the ledger is not as the pipeline wrote it (make history shows it): "
            + "; ".join(faults)
        )
    served = {place for record in records for place in _served(record)} | set(in_use)
    aliased = {f"{name}/{number}" for name in {v.name for v in versions} for number in _aliased(name)}
    refused_at: dict[str, datetime] = {}
    for record in records:  # newest first
        refused_at.setdefault(_place(record.entry.registered_model, record.entry.candidate_version), record.at)
    kept, refused = [], []
    for version in versions:
        place = _place(version.name, version.version)
        names = {place, _place(version.name, version.tags.get(registry.SHA256, ""))}
        at = refused_at.get(place)
        if at is None or at >= before or names & served or place in aliased or version.current_stage not in NO_STAGE:
            kept.append(version)
        else:
            refused.append((version, at))
    moves = [record.entry for record in records if record.entry.kind is not Kind.REFUSAL or not record.finished]
    return Candidates(tuple(kept), tuple(refused), tuple(entry.evidence_run_id or "" for entry in moves))


def named_now(versions: Collection[ModelVersion], run_id: str) -> bool:
    """Tell whether any of these versions of a run's model was named, promoted or joined by another one meanwhile."""
    for version in versions:
        if int(version.version) in _aliased(version.name) or ledger.was_champion(version.name, int(version.version)):
            return True
    known = {(version.name, version.version) for version in versions}
    now = queries.find_versions(tags={"pipeline.train_run_id": run_id})
    return any((version.name, version.version) not in known for version in now)


def _served(record: Record) -> Iterator[str]:
    """Yield what a record says was champion, or may have been: versions and digests of its registered model."""
    entry = record.entry
    of_others = [entry.from_version, entry.to_version, entry.former_sha256]
    own = [entry.candidate_version, entry.candidate_sha256]
    for name in (*of_others, *(own if entry.kind is not Kind.REFUSAL or not record.finished else ())):
        if name is not None:
            yield _place(entry.registered_model, name)


def _aliased(registered_model: str) -> set[int]:
    aliases = MlflowClient().get_registered_model(registered_model).aliases
    return {int(number) for number in aliases.values()}


def _place(registered_model: str, name: str | int) -> str:
    return f"{registered_model}/{name}"

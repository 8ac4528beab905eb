"""The ledger: every promotion, refusal and rollback, one MLflow run each in the experiment `promotions`.

Append-only: a record is created once, found again by its key, and never changed. It is RUNNING while the alias moves
and FINISHED afterwards. One that stays RUNNING shows an interrupted move; the retry of its task finishes both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tasks.records import registry
from tasks.records.paging import PAGE, all_pages
from tasks.records.tracking import experiment
from tasks.settings import load_settings

EXPERIMENT = "promotions"


class Kind(StrEnum):
    """What happened."""

    PROMOTION = "promotion"
    REFUSAL = "refusal"
    ROLLBACK = "rollback"
    FAILED_DEPLOY = "failed_deploy"


@dataclass(frozen=True)
class Entry:
    """The content of a record; versions are those of `registered_model`."""

    key: str  # of the task that created it; with `kind` and `candidate_sha256`, its identity
    kind: Kind
    registered_model: str
    from_version: int | None  # the champion before
    to_version: int | None  # the champion after; None when the alias is gone
    candidate_version: int  # the version that was judged, rolled back to, or could not be deployed
    candidate_sha256: str  # `pipeline.model_sha256` of that version
    by: str  # a person, or the DAG run that acted
    reason: str
    evidence_run_id: str | None = None  # of evaluate
    former_sha256: str | None = None  # `pipeline.model_sha256` of `from_version`

    @property
    def tags(self) -> dict[str, str]:
        """The entry as MLflow tags, `ledger.` before each field; fields that are None are left out."""
        moves = {"ledger.moves": "false" if self.kind is Kind.REFUSAL else "true"}
        return moves | {f"ledger.{name}": str(value) for name, value in vars(self).items() if value is not None}

    @property
    def identity(self) -> dict[str, str]:
        """The tags by which a retry finds its record."""
        return {name: self.tags[name] for name in ("ledger.key", "ledger.kind", "ledger.candidate_sha256")}


@dataclass(frozen=True)
class Record:
    """An entry as stored in the ledger."""

    entry: Entry
    at: datetime  # UTC
    run_id: str
    finished: bool


@contextmanager
def recorded(entry: Entry) -> Iterator[None]:
    """Record what the block does: the record exists before it starts and is finished after it.

    A retry finds its record and may repeat the block. When others have moved the alias since (someone cleared an old
    task), a new record is created.
    """
    client = MlflowClient()
    found = _search(entry.identity, limit=1)
    if found and found[0].info.status == "FINISHED" and _moved_since(found[0], entry):
        found = []
    run = found[0] if found else client.create_run(_experiment(), tags=entry.tags, run_name=_name(entry))
    yield
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED")


def move_champion(entry: Entry) -> None:
    """Point `champion` at `entry.to_version`, or delete the alias if that is None, and record it."""
    with recorded(entry):
        if entry.to_version is None:
            registry.delete_alias(entry.registered_model, registry.CHAMPION)
        else:
            registry.set_alias(entry.registered_model, registry.CHAMPION, entry.to_version)


def history(registered_model: str | None = None, *, limit: int = PAGE) -> list[Record]:
    """List the records, newest first: of one registered model, or of all."""
    tags = {"ledger.registered_model": registered_model} if registered_model else {}
    return [_record(run) for run in _search(tags, limit=limit)]


def comparisons(registered_model: str, champion_version: int, candidate_sha256: str) -> int:
    """Count the other candidates that this champion was compared with.

    The same weights are the same candidate when judged again: in a retry, or when training gave the same model.
    """
    judged = {Kind.REFUSAL, Kind.PROMOTION}
    entries = [record.entry for record in history(registered_model)]
    seen = {e.candidate_sha256 for e in entries if e.kind in judged and e.from_version == champion_version}
    return len(seen - {candidate_sha256})


def rolled_back(registered_model: str, candidate_sha256: str) -> str | None:
    """Say who took these weights out of service, and why; None unless that was the last thing done with them."""
    for record in history(registered_model):
        entry = record.entry
        if entry.kind is Kind.ROLLBACK and entry.former_sha256 == candidate_sha256:
            return f"rolled back by {entry.by} on {record.at:%Y-%m-%d} ({entry.reason}), version {entry.from_version}"
        if entry.kind in {Kind.PROMOTION, Kind.ROLLBACK} and entry.candidate_sha256 == candidate_sha256:
            return None
    return None


def evidence_of(registered_model: str, version: int) -> str | None:
    """Return the evaluate run by whose evidence a version became champion last; None if it never did."""
    for record in history(registered_model):
        if record.entry.kind is Kind.PROMOTION and record.entry.candidate_version == version:
            return record.entry.evidence_run_id
    return None


def champion_before(registered_model: str, version: int) -> int | None:
    """Return the version that was champion when `version` became it; None when there was none, or it never did."""
    for record in history(registered_model):
        entry = record.entry
        if entry.kind is not Kind.REFUSAL and entry.to_version == version and entry.from_version != version:
            return entry.from_version
    return None


def _experiment() -> str:
    return experiment(EXPERIMENT, load_settings().artifact_root)


def _search(tags: dict[str, str], *, limit: int) -> list[Run]:
    client, experiment_id = MlflowClient(), _experiment()
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    text = " and ".join([*conditions, "tags.`ledger.key` != ''"])
    order = ["attributes.start_time DESC"]
    return list(
        all_pages(
            lambda size, token: client.search_runs([experiment_id], text, ViewType.ACTIVE_ONLY, size, order, token),
            limit,
        )
    )


def _moved_since(run: Run, entry: Entry) -> bool:
    newest = _search({"ledger.registered_model": entry.registered_model, "ledger.moves": "true"}, limit=1)
    return bool(newest) and newest[0].info.run_id != run.info.run_id and entry.kind is not Kind.REFUSAL


def _record(run: Run) -> Record:
    tags = {name.removeprefix("ledger."): value for name, value in run.data.tags.items() if name.startswith("ledger.")}
    numbers = {name: int(tags[name]) if name in tags else None for name in ("from_version", "to_version")}
    entry = Entry(
        key=tags["key"],
        kind=Kind(tags["kind"]),
        registered_model=tags["registered_model"],
        from_version=numbers["from_version"],
        to_version=numbers["to_version"],
        candidate_version=int(tags["candidate_version"]),
        candidate_sha256=tags["candidate_sha256"],
        by=tags["by"],
        reason=tags["reason"],
        evidence_run_id=tags.get("evidence_run_id"),
        former_sha256=tags.get("former_sha256"),
    )
    at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return Record(entry, at, str(run.info.run_id), run.info.status == "FINISHED")


def _name(entry: Entry) -> str:
    return f"{entry.kind} {entry.registered_model} {entry.candidate_version}"

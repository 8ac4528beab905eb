"""The ledger: every promotion, refusal and rollback, one MLflow run each in the experiment `promotions`.

Append-only: a record is created once, found again by its key, and never changed. It is RUNNING while the alias moves
and FINISHED afterwards. One that stays RUNNING shows an interrupted move; the retry of its task finishes both. Each
names the record of its registered model before it, with its digest (`tasks.records.ledger_chain`).

Every question is a search by tags, so that its answer depends on no record that it is not about, however many there
are. The newest record is the one that began last; of two that began in the same millisecond, always the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.errors import ChangedError
from tasks.records import queries, registry
from tasks.records.tracking import experiment, find_experiment
from tasks.settings import load_settings

EXPERIMENT = "promotions"
MOVED = "true"  # the tag `ledger.moves` of all records but refusals
PREVIOUS = "ledger.previous"  # tag: ID and digest of the record before; `FIRST`: there was none
FIRST = "none"


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
    evidence_sha256: str | None = None  # of the evidence in that run
    former_sha256: str | None = None  # `pipeline.model_sha256` of `from_version`

    @property
    def tags(self) -> dict[str, str]:
        """The entry as MLflow tags, `ledger.` before each field; fields that are None are left out."""
        moves = {"ledger.moves": "false" if self.kind is Kind.REFUSAL else MOVED}
        return moves | {f"ledger.{name}": str(value) for name, value in vars(self).items() if value is not None}

    @property
    def identity(self) -> dict[str, str]:
        """The fields by which a retry finds its record."""
        return {"key": self.key, "kind": self.kind, "candidate_sha256": self.candidate_sha256}


@dataclass(frozen=True)
class Record:
    """An entry as stored in the ledger."""

    entry: Entry
    at: datetime  # UTC
    run_id: str
    finished: bool
    sha256: str  # of its ID, time and tags
    previous: str | None  # as in the tag `PREVIOUS`; None: a release without a chain wrote it


@contextmanager
def recorded(entry: Entry) -> Iterator[None]:
    """Record what the block does: the record exists before it starts and is finished after it.

    A retry finds its record and may repeat the block. When others have moved the alias since (someone cleared an old
    task), a new record is created.
    """
    client = MlflowClient()
    run = _newest(**entry.identity)
    if run and run.info.status == "FINISHED" and _moved_since(run, entry):
        run = None
    if run is None:
        experiment_id = experiment(EXPERIMENT, load_settings().artifact_root)
        run = client.create_run(experiment_id, tags=entry.tags | _chained(entry), run_name=_name(entry))
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


def history(registered_model: str | None = None) -> Iterator[Record]:
    """Yield all records, newest first: of one registered model, or of all."""
    return map(_record, _all(**({"registered_model": registered_model} if registered_model else {})))


def promotions(registered_model: str) -> Iterator[Record]:
    """Yield the finished promotions of a registered model, newest first."""
    runs = _all(registered_model=registered_model, kind=Kind.PROMOTION)
    return (record for record in map(_record, runs) if record.finished)


def newest_move(registered_model: str) -> Record | None:
    """Return the newest record that moved the alias of a registered model, or was to move it."""
    return _found(_newest(registered_model=registered_model, moves=MOVED))


def is_recorded(registered_model: str, champion: int | None) -> bool:
    """Tell whether the newest move made this version champion; while it is not finished, the one before counts too."""
    move = newest_move(registered_model)
    if move is None:
        return False
    return champion in ({move.entry.to_version} if move.finished else {move.entry.to_version, move.entry.from_version})


def failed_deploy(registered_model: str, key: str) -> Record | None:
    """Return the newest record of a deploy task, by its key, that took back the version it was to deploy."""
    return _found(_newest(registered_model=registered_model, kind=Kind.FAILED_DEPLOY, key=key))


def comparisons(registered_model: str, champion_version: int, candidate_sha256: str) -> int:
    """Count the other candidates that this champion was compared with.

    The same weights are the same candidate when judged again: in a retry, or when training gave the same model.
    """
    met = {"registered_model": registered_model, "from_version": champion_version}
    runs = (run for kind in (Kind.REFUSAL, Kind.PROMOTION) for run in _all(**met, kind=kind))
    return len({run.data.tags["ledger.candidate_sha256"] for run in runs} - {candidate_sha256})


def rolled_back(registered_model: str, candidate_sha256: str) -> str | None:
    """Say who took these weights out of service, and why; None unless that was the last thing done with them."""
    out = _newest(registered_model=registered_model, kind=Kind.ROLLBACK, former_sha256=candidate_sha256)
    if out is None:
        return None
    for kind in (Kind.PROMOTION, Kind.ROLLBACK):
        taken = _newest(registered_model=registered_model, kind=kind, candidate_sha256=candidate_sha256)
        if taken is not None and _age(taken) < _age(out):
            return None
    record = _record(out)
    entry = record.entry
    return f"rolled back by {entry.by} on {record.at:%Y-%m-%d} ({entry.reason}), version {entry.from_version}"


def evidence_of(registered_model: str, version: int) -> str | None:
    """Return the evaluate run by whose evidence a version became champion last; None if it never did."""
    found = _newest(registered_model=registered_model, kind=Kind.PROMOTION, candidate_version=version)
    return _record(found).entry.evidence_run_id if found else None


def judged_by(evaluate_run_id: str) -> list[Entry]:
    """Return the newest promotion and the newest refusal on the evidence of this evaluate run, if there are any."""
    found = (_newest(evidence_run_id=evaluate_run_id, kind=kind) for kind in (Kind.PROMOTION, Kind.REFUSAL))
    return [_record(run).entry for run in found if run is not None]


def was_champion(registered_model: str, version: int) -> bool:
    """Tell whether a move made this version champion, took it out of service, or was to."""
    known = {"registered_model": registered_model, "moves": MOVED}
    return any(_newest(**known, **{of: version}) for of in ("to_version", "from_version"))


def champion_before(registered_model: str, version: int) -> int | None:
    """Return the version that was champion when `version` became it; None when there was none, or it never did."""
    records = map(_record, _all(registered_model=registered_model, moves=MOVED, to_version=version))
    return next((r.entry.from_version for r in records if r.entry.from_version != version), None)


def _chained(entry: Entry) -> dict[str, str]:
    before = _newest(registered_model=entry.registered_model)
    return {PREVIOUS: link(before) if before else FIRST}


def link(before: Run) -> str:
    """Name a record in the one that follows it."""
    return f"{before.info.run_id} {_digest(before)}"


def _digest(run: Run) -> str:
    """SHA-256 over what never changes in a record; its status does."""
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("ledger.")}
    text = json.dumps([run.info.run_id, run.info.start_time, tags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _newest(**fields: object) -> Run | None:
    """Return the newest record with these values, by the names of an entry's fields."""
    experiment_id = find_experiment(EXPERIMENT)
    return queries.newest_run(experiment_id, _tags(fields)) if experiment_id else None


def _all(**fields: object) -> Iterator[Run]:
    """Yield all records with these values, newest first."""
    experiment_id = find_experiment(EXPERIMENT)
    return queries.find_runs(experiment_id, _tags(fields)) if experiment_id else iter(())


def _tags(fields: Mapping[str, object]) -> queries.Tags:
    return {"ledger.key": queries.PRESENT} | {f"ledger.{name}": str(value) for name, value in fields.items()}


def _age(run: Run) -> tuple[int, str]:
    """Say where a record is in MLflow's order of runs, newest first."""
    return -int(run.info.start_time), str(run.info.run_id)


def _moved_since(run: Run, entry: Entry) -> bool:
    if entry.kind is Kind.REFUSAL:
        return False
    newest = _newest(registered_model=entry.registered_model, moves=MOVED)
    return newest is not None and newest.info.run_id != run.info.run_id


def _found(run: Run | None) -> Record | None:
    return _record(run) if run else None


def _record(run: Run) -> Record:
    try:
        entry = _entry(run)
    except (KeyError, ValueError) as error:
        raise ChangedError(
            f"record {run.info.run_id} of the ledger cannot be read ({type(error).__name__}: {error}): its tags were "
            "changed; correct them in MLflow, experiment 'promotions', or restore a backup"
        ) from error
    at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    finished = run.info.status == "FINISHED"
    return Record(entry, at, str(run.info.run_id), finished, _digest(run), run.data.tags.get(PREVIOUS))


def _entry(run: Run) -> Entry:
    tags = {name.removeprefix("ledger."): value for name, value in run.data.tags.items() if name.startswith("ledger.")}
    numbers = {name: int(tags[name]) if name in tags else None for name in ("from_version", "to_version")}
    return Entry(
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
        evidence_sha256=tags.get("evidence_sha256"),
        former_sha256=tags.get("former_sha256"),
    )


def _name(entry: Entry) -> str:
    return f"{entry.kind} {entry.registered_model} {entry.candidate_version}"

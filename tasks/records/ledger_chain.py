"""Checks that nobody changed, removed or added records of the ledger, or moved `champion` without one.

Each record names the one of its registered model that was the newest when it was written, and that one's digest. So a
record that is changed no longer fits the one after it, and one that is removed is missed by it. The newest has none
after it: it is held against the alias. Records of releases without a chain are covered as far as later ones name them.
Two records written at the same moment may name the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tasks.records import ledger, registry
from tasks.records.ledger import Kind, Record


def faults(records: Sequence[Record]) -> list[str]:
    """Say what is wrong with the records of one or more registered models, a line each; empty if nothing is.

    Args:
        records: all records of each of these registered models.
    """
    found = []
    for name, of_model in _by_model(records):
        found += [f"{name}: {fault}" for fault in (*_broken(of_model), *_moved_by_hand(name, of_model))]
    return found


def broken(records: Sequence[Record]) -> list[str]:
    """Say which records were changed, removed or added; as `faults`, without looking where `champion` is."""
    return [f"{name}: {fault}" for name, of_model in _by_model(records) for fault in _broken(of_model)]


def _by_model(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    by_model = sorted(records, key=lambda record: record.entry.registered_model)  # stable: each stays newest first
    for name, group in groupby(by_model, lambda record: record.entry.registered_model):
        yield name, list(group)


def _broken(records: Sequence[Record]) -> Iterator[str]:
    """Compare each record, newest first, with what the ones after it say."""
    digests = {record.run_id: record.sha256 for record in records}
    chained = [record for record in records if record.previous is not None]
    for record in records:
        if record.previous is None:
            if chained and record.at >= chained[-1].at:
                yield f"{_named(record)} names no record before it: no stage wrote it"
        elif record.previous == ledger.FIRST:
            if record is not records[-1]:
                yield f"{_named(record)} says that it is the first, but there are older ones"
        else:
            run_id, _, digest = record.previous.partition(" ")
            if run_id not in digests:
                yield f"record {run_id}, which {_named(record)} follows, is gone; restore that run in MLflow"
            elif digests[run_id] != digest:
                yield f"record {run_id} was changed after {_named(record)} was written"


def _moved_by_hand(registered_model: str, records: Sequence[Record]) -> Iterator[str]:
    moves = [record for record in records if record.entry.kind is not Kind.REFUSAL]
    if not moves or not moves[0].finished:  # an unfinished move may be before or after the alias moved
        return
    if not registry.exists(registered_model):
        return
    champion = registry.by_alias(registered_model)
    version = int(champion.version) if champion else None
    if version != moves[0].entry.to_version:
        yield (
            f"champion is version {version or '-'}, but the newest move, {_named(moves[0])}, made it "
            f"{moves[0].entry.to_version or '-'}: someone moved the alias without a record, or newer records are gone"
        )


def _named(record: Record) -> str:
    return f"{record.entry.kind} {record.run_id} of {record.at:%Y-%m-%d %H:%M}"

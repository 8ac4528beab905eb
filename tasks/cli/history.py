"""Prints the ledger: `python -m tasks history`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from tasks.errors import ChangedError
from tasks.records import ledger, ledger_chain, tracking
from tasks.records.ledger import Record
from tasks.settings import load_settings
from tasks.text_table import columns

HEADER = ("when (UTC)", "what", "model", "from", "to", "judged", "by", "why")


def row(record: Record) -> tuple[str, ...]:
    """Lay out one record as cells."""
    entry = record.entry
    return (
        f"{record.at:%Y-%m-%d %H:%M:%S}",
        str(entry.kind) + ("" if record.finished else " (not finished)"),
        entry.registered_model,
        "-" if entry.from_version is None else str(entry.from_version),
        "-" if entry.to_version is None else str(entry.to_version),
        str(entry.candidate_version),
        entry.by,
        entry.reason,
    )


def show(registered_model: str | None, limit: int, as_json: bool) -> None:
    """Print the newest `limit` records, the newest first, say how many older ones there are, and check all of them.

    As a table or as one JSON object per line; with JSON, the number of older ones goes to standard error.

    Raises:
        ChangedError: records were changed, removed or added, or `champion` was moved without one.
    """
    tracking.connect(load_settings())
    found = list(ledger.history(registered_model))
    records, older = found[:limit], len(found[limit:])
    if as_json:
        for record in records:
            print(json.dumps(asdict(record.entry) | {"at": record.at.isoformat(), "finished": record.finished}))
    elif records:
        print(columns([HEADER, *map(row, records)]))
    else:
        print("the history is empty: nothing has been promoted, refused or rolled back yet")
    if older:
        last = f"{older} older records are not shown; --limit {limit + older} shows all"
        print(last if as_json else f"\n{last}", file=sys.stderr if as_json else sys.stdout)
    faults = ledger_chain.faults(found)
    if faults:
        raise ChangedError(f"the ledger is not as the pipeline wrote it: {'; '.join(faults)}")

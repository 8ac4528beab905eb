"""Prints the ledger: `python -m tasks history`."""

from __future__ import annotations

import json
from dataclasses import asdict

from tasks.records import ledger, tracking
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
    """Print at most `limit` records, the newest first, as a table or as one JSON object per line."""
    tracking.connect(load_settings())
    records = ledger.history(registered_model, limit=limit)
    if as_json:
        for record in records:
            print(json.dumps(asdict(record.entry) | {"at": record.at.isoformat(), "finished": record.finished}))
    elif records:
        print(columns([HEADER, *map(row, records)]))
    else:
        print("the history is empty: nothing has been promoted, refused or rolled back yet")

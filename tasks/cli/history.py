"""Prints the ledger: `python -m tasks history [--registered-model NAME] [--limit N] [--json]`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tasks.errors import exit_code_of
from tasks.records import ledger, tracking
from tasks.records.ledger import Record
from tasks.settings import load_settings
from tasks.text_table import columns

HEADER = ("when (UTC)", "what", "model", "from", "to", "judged", "by", "why")


def row(record: Record) -> tuple[str, ...]:
    """One record as cells."""
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
    """Print the newest records first, as a table or as one JSON object per line."""
    tracking.connect(load_settings())
    records = ledger.history(registered_model, limit=limit)
    if as_json:
        for record in records:
            print(json.dumps(asdict(record.entry) | {"at": record.at.isoformat(), "finished": record.finished}))
    elif records:
        print(columns([HEADER, *map(row, records)]))
    else:
        print("the ledger is empty: nothing was promoted, refused or rolled back yet")


def main(arguments: list[str]) -> int:
    """Print the ledger; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks history", description=__doc__)
    parser.add_argument("--registered-model", help="of this model only")
    parser.add_argument("--limit", type=int, default=50, help="at most so many (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: show(options.registered_model, options.limit, options.json))

"""clean: remove what nothing needs any longer, and list it in the run. See `tasks.retention`."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta

import mlflow

from tasks.contract.cleaning import CleanRequest, CleanResult
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun
from tasks.retention import leftovers
from tasks.retention.leftovers import Leftover, Store
from tasks.settings import Settings

LIST = "removed.json"

log = logging.getLogger("tasks.clean")


def run(request: CleanRequest, run: StageRun, settings: Settings) -> CleanResult:
    """Remove leftovers; a retry finds what is left of them.

    Everything is found before anything is removed, and nothing is removed if something cannot be read.

    Raises:
        ChangedError: the ledger is not as the pipeline wrote it.
        UnavailableError: MLflow or the service does not answer.
    """
    before = datetime.now(UTC) - timedelta(days=request.idle_days)
    store = Store.read(settings, before)
    found = leftovers.find(settings, before, store)
    for item in found:
        log.info("%s", _line(item))
    kept: list[Leftover] = []
    if not request.dry_run:
        kept = _removed(found, store, before)
    gone = [] if request.dry_run else [item for item in found if item not in kept]
    # One file for each try: what an earlier try removed is not found again.
    mlflow.log_dict(
        {"dry_run": request.dry_run, "found": [_line(item) for item in found], "kept": [_line(item) for item in kept]},
        f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{LIST}",
    )
    removed = dict(Counter(str(item.kind) for item in gone))
    megabytes = sum(item.size or 0 for item in gone) / 1e6
    log_values({"removed": float(len(gone)), "removed_megabytes": megabytes})
    return CleanResult(**run.result_fields, removed=removed, megabytes=megabytes, kept=len(kept))


def _removed(found: list[Leftover], store: Store, before: datetime) -> list[Leftover]:
    """Remove what was found and is still unused; return what is used again."""
    kept = []
    for item in found:
        if leftovers.used_again(item, store, before):
            log.info("kept, because it is used again: %s", _line(item))
            kept.append(item)
        else:
            leftovers.remove(item)
    return kept


def _line(item: Leftover) -> str:
    why = f" ({item.weights.why})" if item.weights else ""
    size = f", {item.size / 1e6:.1f} MB" if item.size is not None else ""
    return f"{item.kind}{why} of {item.of}, run {item.run_id}{size}"

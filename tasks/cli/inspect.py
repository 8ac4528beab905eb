"""Shows what prepare would make of a data set, without training and without MLflow: `python -m tasks inspect`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.contract.data import PrepareRequest
from tasks.contract.messages import TaskIdentity, parse
from tasks.errors import DataError, RequestError
from tasks.settings import Settings, load_settings
from tasks.text_table import table
from tasks.vision.data import bronze, losses, silver, splits, understanding
from tasks.vision.data.contents import LayoutOptions
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.gold import Gold
from tasks.vision.data.plots import grid_figure
from tasks.vision.data.record_table import SelectedRecords
from tasks.vision.data.records import Listing, Removal
from tasks.vision.data.sources import Source, open_source

HEADER = ("files", "left out because", "for example")
LEFT_OUT = "left_out.csv"
GRID = "sample_grid.png"


def show(fields: dict[str, Any], out: Path | None) -> None:
    """Print how a source is understood and what would be left out; write all of it and the sample grid to `out`.

    Args:
        fields: of `PrepareRequest`.
        out: a folder, which is made when missing.

    Raises:
        DataError: prepare would stop. What was found until then is printed and written all the same.
        RequestError: a field is wrong.
    """
    task = TaskIdentity(dag_id="inspect", dag_run_id="shell", task_id="inspect")
    request = parse(PrepareRequest, {"task": task, "dataset": "image_folder", **fields}, RequestError)
    options = LayoutOptions.of(request)
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")  # as in prepare; else boto3 reads AWS_ENDPOINT_URL
    settings = load_settings()
    with open_source(request.dataset, request.source, settings.datasets, endpoint, options) as source:
        listing = source.listing
        print("\n".join(understanding.lines(listing)), flush=True)
        shaping = Shaping.of(request, source)
        kept, removals = _read(source, shaping, settings)
        print(_outcome(listing, removals))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            losses.write(removals, out / LEFT_OUT)
        losses.require_few(listing, removals, request.max_left_out, str(request.source))
        gold = _split(kept, listing, shaping)
    counts = ", ".join(f"{len(split):,} {name}" for name, split in gold.splits.items())
    print(f"\na run would use {counts} images")
    if out is not None:
        grid_figure(gold).savefig(out / GRID)
        print(f"written: {out / LEFT_OUT}, {out / GRID}")


def _read(source: Source, shaping: Shaping, settings: Settings) -> tuple[SelectedRecords, list[Removal]]:
    """Read every image; return those that can be used, and every file that would be left out."""
    disk, memory = settings.gold_disk_bytes, settings.prepare_memory_bytes
    kept, left_out = silver.clean(bronze.read(source, shaping, most_disk=disk, most_memory=memory))
    return kept, sorted([*source.listing.removals, *left_out], key=lambda removal: removal.name)


def _split(kept: SelectedRecords, listing: Listing, shaping: Shaping) -> Gold:
    try:
        return splits.split(
            kept,
            listing.classes,
            shaping,
            "",
            has_test=listing.has_test,
            has_validation=listing.has_validation,
            columns=listing.columns,
        )
    except DataError as error:
        raise DataError(str(error).replace("removed.csv", LEFT_OUT)) from error


def _outcome(listing: Listing, removals: Sequence[Removal]) -> str:
    """Lay out what is left out as a table, by reason."""
    junk = f"; ignored, as operating systems and tools leave them behind: {listing.junk:,}" if listing.junk else ""
    if not removals:
        return f"\nnothing would be left out{junk}"
    lines = []
    for reason, count in Counter(removal.reason for removal in removals).most_common():
        first = next(removal for removal in removals if removal.reason is reason)
        lines.append((f"{count:,}", reason.value, " ".join(filter(None, [first.name, first.detail]))))
    return f"\nleft out: {len(removals):,} of {listing.files:,} files{junk}\n\n{table(HEADER, lines)}"

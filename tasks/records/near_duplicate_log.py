"""Logs near-duplicates of test images to the run that made the gold: table, figure, metric and a warning."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import mlflow

from tasks.records.metric_log import log_values
from tasks.vision.data import near_duplicates
from tasks.vision.data.gold import Gold
from tasks.vision.data.plots import pairs_figure

METRIC = "near_duplicates"  # test images that have one
FOLDER, TABLE = "manifest", "near_duplicates.csv"
FIGURE = "plots/near_duplicates.png"
EXAMPLES = 3

log = logging.getLogger("tasks.prepare")


def log_near_duplicates(gold: Gold) -> None:
    """Look for near-duplicates of test images in train and validation, and log them to the active run.

    They are reported and not removed: whether a pair is a leak is for a person to decide.
    """
    if min(gold.shape[1:]) < near_duplicates.MIN_SIDE:
        log.info("near-duplicates: not looked for in images of under %d pixels", near_duplicates.MIN_SIDE)
        return
    started = time.monotonic()
    pairs = near_duplicates.find(gold)
    seconds = time.monotonic() - started
    nearest = near_duplicates.nearest(pairs)
    log_values({METRIC: len(nearest), f"{METRIC}.seconds": seconds})
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
        near_duplicates.write(pairs, gold, Path(folder) / TABLE)
        mlflow.log_artifact(str(Path(folder) / TABLE), FOLDER)
    if not pairs:
        log.info("near-duplicates: none between test and the other splits, %.1f s", seconds)
        return
    mlflow.log_figure(pairs_figure(pairs, gold), FIGURE)
    examples = ", ".join(
        f"{gold.test.names[pair.test]!r} and {gold.splits[pair.split].names[pair.other]!r}"
        for pair in nearest[:EXAMPLES]
    )
    log.warning(
        "near-duplicates: %d of %d test images are almost the same as one in train or validation, %.1f s (%s%s); the "
        "test accuracy may be too good: look at %s and %s/%s, and leave images out with `corrections`",
        *(len(nearest), len(gold.test), seconds, examples, ", …" if len(nearest) > EXAMPLES else ""),
        *(FIGURE, FOLDER, TABLE),
    )

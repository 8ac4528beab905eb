"""Keeps a list of images whose label looks wrong in the run of a stage, as a table and as pictures."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from tasks.vision.data.gold import Gold
from tasks.vision.evaluation.suspected_labels import FILE, Suspect, write
from tasks.vision.evaluation.suspected_labels_figure import suspects_figure

METRIC = "suspected_labels"
FIGURE = "plots/suspected_labels.png"

log = logging.getLogger("tasks.train")


def keep(suspects: Sequence[Suspect], gold: Gold) -> None:
    """Log a list to the active run, also an empty one, over that of an earlier try."""
    with tempfile.TemporaryDirectory(prefix="suspects-") as folder:
        path = Path(folder) / FILE
        write(suspects, gold.classes, path)
        mlflow.log_artifact(str(path))
    mlflow.log_figure(suspects_figure(suspects, gold), FIGURE, save_kwargs={"dpi": 120})
    if suspects:
        counts = Counter(one.split for one in suspects)
        where = " and ".join(f"{counts[name]:,} {name}" for name in gold.splits if counts[name])
        log.info(
            "the labels of %s images look wrong: %s and %s in this run show them; a person should look, keep the lines "
            "that are right, and give the file back as Param corrections",
            *(where, FILE, FIGURE),
        )


def is_kept(run_id: str) -> bool:
    """Whether a run has a list."""
    return any(file.path == FILE for file in MlflowClient().list_artifacts(run_id))

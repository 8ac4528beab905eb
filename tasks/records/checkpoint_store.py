"""Stores checkpoints between two tries of a train stage: in the artifact folder `checkpoints` of its run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from tasks.vision.training import checkpoints
from tasks.vision.training.cadence import Cadence

ARTIFACT = "checkpoints"

log = logging.getLogger("tasks.train")


class CheckpointStore:
    """Saves the state of a training to its run, as often as is worthwhile, and finds it again after a failure."""

    def __init__(self, run_id: str) -> None:
        """Take the run; nothing is read or written yet."""
        self._run_id = run_id
        self._cadence = Cadence()

    def newest(self) -> dict[str, Any] | None:
        """Return the newest undamaged state that an earlier try left, or None."""
        if not MlflowClient().list_artifacts(self._run_id, ARTIFACT):
            return None
        with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
            path = mlflow.artifacts.download_artifacts(run_id=self._run_id, artifact_path=ARTIFACT, dst_path=folder)
            return checkpoints.load_newest(Path(path))

    def due(self) -> bool:
        """Tell whether another checkpoint is worthwhile by now (see `tasks.vision.training.cadence`)."""
        return self._cadence.due()

    def save(self, state: dict[str, Any], epoch: int) -> None:
        """Write `state` after `epoch` epochs to the run."""
        with self._cadence.saving(), tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
            for file in checkpoints.save(state, epoch, Path(folder)):
                MlflowClient().log_artifact(self._run_id, str(file), ARTIFACT)

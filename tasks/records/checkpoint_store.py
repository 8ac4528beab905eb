"""Stores checkpoints between two tries of a train stage: in the artifact folder `checkpoints` of its run.

The SHA-256 of each is in a tag of the run before it is written there, so a retry goes on from none of anyone else's.
"""

from __future__ import annotations

import json
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from tasks.records import artifact_names
from tasks.records.store_wait import StoreWait
from tasks.vision.training import checkpoints
from tasks.vision.training.cadence import Cadence

ARTIFACT = artifact_names.CHECKPOINTS
SHA256 = "pipeline.checkpoints_sha256"  # tag of the run: of the last checkpoints, the newest last
KEPT = len(checkpoints.SLOTS) + 1  # the store can still hold the two before the one that is being written

log = logging.getLogger("tasks.train")


class CheckpointStore:
    """Saves the state of a training to its run, as often as is worthwhile, and finds it again after a failure."""

    def __init__(self, run_id: str, wait: StoreWait) -> None:
        """Take the run, and what waits for a store that is away; nothing is read or written yet."""
        self._run_id, self._wait = run_id, wait
        self._cadence = Cadence()
        self._saved: list[str] = []
        self._slot: int | None = None  # the next one to write over

    def newest(self) -> dict[str, Any] | None:
        """Return the newest undamaged state that an earlier try left, or None.

        Raises:
            ChangedError: a checkpoint is not one that this run logged.
        """
        client = MlflowClient()
        logged = client.get_run(self._run_id).data.tags.get(SHA256)
        self._saved = json.loads(logged or "[]")
        if not client.list_artifacts(self._run_id, ARTIFACT):
            if logged is None:  # from now on, only what is saved here counts
                self._log_digests()
            return None
        with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
            path = Path(
                mlflow.artifacts.download_artifacts(run_id=self._run_id, artifact_path=ARTIFACT, dst_path=folder)
            )
            if logged is None:  # a release without digests began this run
                self._saved = checkpoints.digests(path)
            self._slot = checkpoints.older_slot(path)
            return checkpoints.load_newest(path, self._saved)

    def due(self) -> bool:
        """Tell whether another checkpoint is worthwhile by now (see `tasks.vision.training.cadence`)."""
        return self._cadence.due()

    def save(self, state: dict[str, Any], epoch: int, step: int = 0) -> None:
        """Write `state` after `epoch` epochs, and `step` batches of the next one, to the run.

        Raises:
            UnavailableError: the store was away for too long.
        """
        slots = len(checkpoints.SLOTS)
        slot = epoch % slots if self._slot is None else self._slot
        with self._cadence.saving(), tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
            files = checkpoints.save(state, epoch, Path(folder), step=step, slot=slot)
            self._saved = [*self._saved, *checkpoints.digests(Path(folder))][-KEPT:]
            write = "to write a checkpoint"
            self._wait(self._log_digests, write)
            for file in files:
                self._wait(partial(MlflowClient().log_artifact, self._run_id, str(file), ARTIFACT), write)
        self._slot = (slot + 1) % slots

    def _log_digests(self) -> None:
        MlflowClient().set_tag(self._run_id, SHA256, json.dumps(self._saved))

"""Keeps decoded images between two tries of a prepare: in the artifact folder `decoded` of its run.

A part is named by its SHA-256, and counts once that is in a tag of the run, which nobody sets with a key to the bucket
alone. Parts are decoded again, not trusted, where they are missing or changed. All go once gold is complete.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.files import sha256
from tasks.records import artifact_names
from tasks.vision.data.decoded_parts import FORMAT

ARTIFACT = artifact_names.DECODED
SHA256 = "pipeline.decoded_sha256."  # and a number: what the parts are of, then the SHA-256 of each
PARTS_OF_A_TAG = 64  # MLflow takes 8,000 characters, and 5,000 in releases before 2.9

log = logging.getLogger("tasks.prepare")


class DecodedStore:
    """The parts of one run; safe to use from several threads."""

    def __init__(self, run_id: str, fingerprint: str) -> None:
        """Look at what earlier tries stored; parts of a source that has changed since are removed.

        Args:
            run_id: the run.
            fingerprint: of the gold that is to be made.
        """
        self._run_id, self._of = run_id, f"{FORMAT}/{fingerprint}"
        self._lock = threading.Lock()
        run = MlflowClient().get_run(run_id)
        self._uri = run.info.artifact_uri
        self._tags = {name: value.split() for name, value in run.data.tags.items() if name.startswith(SHA256)}
        if any(words[:1] != [self._of] for words in self._tags.values()):
            log.warning("an earlier try decoded images of another source or size; they are not used")
            self.remove()

    def names(self) -> list[str]:
        """Return the names of the parts that are in the store, of those that earlier tries stored."""
        names = [f"{digest}.npy" for words in self._tags.values() for digest in words[1:]]
        if not names:
            return []
        there = self._there()
        if missing := [name for name in names if name not in there]:
            log.warning(
                "parts of decoded images that are missing in the store: %d; their images are decoded again",
                len(missing),
            )
        return [name for name in names if name in there]

    def fetch(self, name: str, folder: Path) -> Path | None:
        """Put a part into the folder; None, with a line in the log, if it is not what was stored.

        Raises:
            MlflowException, OSError: the store does not answer.
        """
        path = Path(mlflow.artifacts.download_artifacts(f"{self._uri}/{ARTIFACT}/{name}", dst_path=str(folder)))
        if (found := sha256(path)) == path.stem:
            return path
        log.warning(
            "%s/%s of run %s was changed in the store (SHA-256 %s...); its images are decoded again, find out who can "
            "write to the store",
            *(ARTIFACT, name, self._run_id, found[:12]),
        )
        path.unlink()
        return None

    def store(self, part: Path, sha256: str) -> None:
        """Store a part, and from then on count it.

        Raises:
            MlflowException, OSError: the store does not answer, or is full.
        """
        client = MlflowClient()
        client.log_artifact(self._run_id, str(part.rename(part.with_name(f"{sha256}.npy"))), ARTIFACT)
        with self._lock:
            last = f"{SHA256}{max(0, len(self._tags) - 1)}"
            name = last if len(self._tags.get(last, ())) <= PARTS_OF_A_TAG else f"{SHA256}{len(self._tags)}"
            words = self._tags.setdefault(name, [self._of])
            words.append(sha256)
            client.set_tag(self._run_id, name, " ".join(words))

    def discard(self) -> None:
        """Remove all parts, as gold is complete; where that fails, a cleaning does it later."""
        try:
            self.remove()
        except Exception as error:  # whatever the store's client raises: nothing needs the parts any more
            log.warning(
                "decoded images of run %s were not removed (%s: %s); `make gc` does it when they are old",
                *(self._run_id, type(error).__name__, error),
            )

    def remove(self) -> None:
        """Remove all parts, and then their digests.

        Raises:
            MlflowException, OSError: the store does not answer.
        """
        if not self._tags:
            return
        client = MlflowClient()
        if self._there():
            get_artifact_repository(self._uri).delete_artifacts(ARTIFACT)  # type: ignore[no-untyped-call]
        for name in [*self._tags]:
            client.delete_tag(self._run_id, name)
            del self._tags[name]

    def _there(self) -> set[str]:
        return {Path(file.path).name for file in MlflowClient().list_artifacts(self._run_id, ARTIFACT)}

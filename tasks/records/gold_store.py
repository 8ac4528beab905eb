"""Stores gold between stages: in the artifact folder `gold` of the prepare run that created it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from tasks.errors import ChangedError, DataError
from tasks.records import artifact_digest, artifact_names, tracking, verified_artifacts
from tasks.vision.data import gold as gold_format
from tasks.vision.data.gold import Gold

ARTIFACT = artifact_names.GOLD
GOLD_RUN = artifact_names.GOLD_RUN
GOLD_SHA256 = artifact_names.GOLD_SHA256
FIX = 'restore it from a backup, or make it again with force=["prepare"]'


def fetch(prepare_run_id: str) -> Gold:
    """Download and load the gold that a prepare run created or reused.

    Raises:
        DataError: the run, its tag `pipeline.gold_run_id` or the gold does not exist, or the gold is damaged.
        ChangedError: the gold is not what was stored.
    """
    return fetch_made_by(tracking.tag_of(prepare_run_id, GOLD_RUN))


def fetch_made_by(gold_run_id: str, sha256: str | None = None) -> Gold:
    """Download and load the gold stored in this run itself.

    Args:
        gold_run_id: the run.
        sha256: digest that the gold must have, as prepare recorded it; None: a release that recorded none.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
    """
    with _download(gold_run_id) as (path, digests):
        found = artifact_digest.of_files(digests)
        if sha256 is not None and found != sha256:
            raise ChangedError(
                f"the gold of run {gold_run_id} is not what prepare made or checked (SHA-256 {found[:12]}..., then "
                f"{sha256[:12]}...): its files and its tags were both changed; {FIX}, and find out who can write to "
                "MLflow and its store"
            )
        return gold_format.load(path)


def adopt(gold_run_id: str) -> tuple[Gold, str]:
    """Do the same with the gold of an earlier run; what a release without digests stored has them from now on.

    Returns:
        The gold and its digest.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
    """
    with _download(gold_run_id) as (path, digests):
        gold = gold_format.load(path)
        if not verified_artifacts.has_digests(MlflowClient().get_run(gold_run_id).data.tags, ARTIFACT):
            verified_artifacts.adopt_folder(gold_run_id, ARTIFACT, digests)
        return gold, artifact_digest.of_files(digests)


@contextmanager
def _download(gold_run_id: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a folder with the files of gold, and their SHA-256 by name, which are those in the run's tags."""
    if not exists(gold_run_id):
        raise DataError(f"run {gold_run_id!r} has no artifact {ARTIFACT!r} (any more); run prepare again")
    with tempfile.TemporaryDirectory(prefix="gold-") as folder:
        path = Path(mlflow.artifacts.download_artifacts(run_id=gold_run_id, artifact_path=ARTIFACT, dst_path=folder))
        yield path, verified_artifacts.require_folder(gold_run_id, ARTIFACT, path, FIX)


def exists(gold_run_id: str) -> bool:
    """Tell whether a run exists, is not deleted, and has both files of its gold."""
    client = MlflowClient()
    try:
        run = client.get_run(gold_run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return False
    if run.info.lifecycle_stage != "active":
        return False
    names = {Path(file.path).name for file in client.list_artifacts(gold_run_id, ARTIFACT)}
    return {gold_format.TENSORS, gold_format.DESCRIPTION} <= names


def store(gold: Gold) -> str:
    """Log `gold` to the active run; returns its digest."""
    with tempfile.TemporaryDirectory(prefix="gold-") as folder:
        gold_format.save(gold, Path(folder))
        return artifact_digest.of_files(verified_artifacts.log_folder(Path(folder), ARTIFACT))

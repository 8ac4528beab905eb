"""Stores gold between stages: in the artifact folder `gold` of the prepare run that created it.

The description is written last, and its SHA-256 is a tag of the run; it holds those of all other files. Gold of
releases before shards is read as it is (`tasks.vision.data.gold_tensors`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from tasks.errors import DataError
from tasks.records import artifact_names, tracking, verified_artifacts
from tasks.settings import Settings
from tasks.vision.data import gold_tensors
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import reader, writer
from tasks.vision.data.shards.cache import Fetch
from tasks.vision.data.shards.description import DESCRIPTION, complete, parse
from tasks.vision.memory import available_memory

ARTIFACT = artifact_names.GOLD
GOLD_RUN = artifact_names.GOLD_RUN
FIX = 'restore it from a backup, or make it again with force=["prepare"]'
MEMORY_SHARE = 0.5  # of what is available, for images; the network needs the rest


def fetch(prepare_run_id: str) -> Gold:
    """Load the gold that a prepare run created or reused into memory.

    Raises:
        DataError: the run, its tag `pipeline.gold_run_id` or the gold does not exist, or the gold is damaged.
        ChangedError: the gold is not what was stored.
    """
    return fetch_made_by(tracking.tag_of(prepare_run_id, GOLD_RUN))


def fetch_made_by(gold_run_id: str, *, adopt: bool = False) -> Gold:
    """Load the gold stored in this run itself into memory.

    Args:
        gold_run_id: the run.
        adopt: record the digests of gold that a release without them stored, so that it cannot be changed from now on.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
    """
    return _read(gold_run_id, adopt, most_memory=None, most_disk=None)


def open_made_by(gold_run_id: str, settings: Settings) -> Gold:
    """Open the gold stored in this run: in memory where it fits, else its images stay on disk, the same ones.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
        SettingsError: the disk has too little room for it.
    """
    most_memory, most_disk = settings.pipeline_gold_memory_mib, settings.pipeline_gold_disk_gib
    if most_memory is None and (available := available_memory()) is not None:
        most_memory = int(available * MEMORY_SHARE) // 2**20
    return _read(
        gold_run_id,
        adopt=False,
        most_memory=None if most_memory is None else most_memory * 2**20,
        most_disk=None if most_disk is None else most_disk * 2**30,
    )


def _read(gold_run_id: str, adopt: bool, most_memory: int | None, most_disk: int | None) -> Gold:
    if not exists(gold_run_id):
        raise DataError(f"run {gold_run_id!r} has no artifact {ARTIFACT!r} (any more); run prepare again")
    fetch_file = _fetching(gold_run_id)
    with tempfile.TemporaryDirectory(prefix="gold-") as folder:
        path = fetch_file(DESCRIPTION, Path(folder) / ARTIFACT)
        text = path.read_bytes()
        earlier = _format(text) == gold_tensors.FORMAT
        if earlier:
            fetch_file(gold_tensors.TENSORS, path.parent)
        verified_artifacts.require_folder(gold_run_id, ARTIFACT, path.parent, FIX)
        if earlier:
            gold = gold_tensors.load(path.parent)
        else:
            where = f"gold of run {gold_run_id}"
            gold = reader.read(
                parse(text, where), fetch_file, most_memory=most_memory, most_disk=most_disk, where=where, fix=FIX
            )
        if adopt and not verified_artifacts.has_digests(MlflowClient().get_run(gold_run_id).data.tags, ARTIFACT):
            verified_artifacts.adopt_folder(gold_run_id, ARTIFACT, path.parent)
        return gold


def exists(gold_run_id: str) -> bool:
    """Tell whether a run exists, is not deleted, and has all files of its gold."""
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
    return complete(names) or {gold_tensors.TENSORS, gold_tensors.DESCRIPTION} <= names


def store(gold: Gold) -> None:
    """Log `gold` to the active run."""
    with tempfile.TemporaryDirectory(prefix="gold-") as folder:
        shards, last = Path(folder) / "shards", Path(folder) / "last"
        writer.save(gold, shards)
        last.mkdir()
        shutil.move(shards / DESCRIPTION, last)
        mlflow.log_artifacts(str(shards), ARTIFACT)
        verified_artifacts.log_folder(last, ARTIFACT)


def _fetching(run_id: str) -> Fetch:
    """Return what gets a file of the run's gold from the store."""
    uri = MlflowClient().get_run(run_id).info.artifact_uri

    def fetch_file(name: str, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        try:
            return Path(mlflow.artifacts.download_artifacts(f"{uri}/{ARTIFACT}/{name}", dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            files = {Path(file.path).name for file in MlflowClient().list_artifacts(run_id, ARTIFACT)}
            if name in files:
                raise
            raise DataError(f"{ARTIFACT}/{name} of run {run_id} is missing in the store; {FIX}") from error

    return fetch_file


def _format(text: bytes) -> object:
    """Return the format that a description states; None where it states none."""
    try:
        return json.loads(text)["format"]
    except (ValueError, KeyError, TypeError):
        return None

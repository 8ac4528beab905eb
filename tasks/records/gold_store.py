"""Stores gold between stages: in the artifact folder `gold` of the prepare run that created it.

The description is written last, and its SHA-256 is a tag of the run; it holds those of all other files. Gold of
releases before shards is read as it is (`tasks.vision.data.gold_tensors`).
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from tasks.errors import ChangedError, DataError, SettingsError
from tasks.records import artifact_digest, artifact_names, tracking, verified_artifacts
from tasks.records.store_wait import StoreWait
from tasks.settings import Settings, load_settings
from tasks.vision.data import gold_tensors
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import reader, writer
from tasks.vision.data.shards.cache import Fetch
from tasks.vision.data.shards.description import DESCRIPTION, Description, complete, parse
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.memory import available_memory

ARTIFACT = artifact_names.GOLD
GOLD_RUN = artifact_names.GOLD_RUN
GOLD_SHA256 = artifact_names.GOLD_SHA256
FIX = 'restore it from a backup, or make it again with force=["prepare"]'
FIX_MISSING = "restore it from a backup, or start another DAG run: its prepare notices, and makes the gold again"
MEMORY_SHARE = 0.5  # of what is available, for images; the network needs the rest
UPLOADS = 4  # at the same time


def fetch(prepare_run_id: str) -> Gold:
    """Load the gold that a prepare run created or reused into memory.

    Raises:
        DataError: the run, its tag `pipeline.gold_run_id` or the gold does not exist, or the gold is damaged.
        ChangedError: the gold is not what was stored.
    """
    return fetch_made_by(tracking.tag_of(prepare_run_id, GOLD_RUN))


def fetch_made_by(gold_run_id: str, sha256: str | None = None) -> Gold:
    """Load the gold stored in this run itself into memory, wherever it fits.

    Args:
        gold_run_id: the run.
        sha256: digest that the gold must have, as prepare recorded it; None: a release that recorded none.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
        SettingsError: its images have more bytes than memory is left.
    """
    return _read(gold_run_id, _Room(), sha256)[0]


def open_made_by(gold_run_id: str, sha256: str | None, settings: Settings) -> Gold:
    """Open the gold stored in this run: in memory where it fits, else its images stay on disk, the same ones.

    Args:
        gold_run_id: the run.
        sha256: as of `fetch_made_by`.
        settings: how much memory and disk images may take.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
        SettingsError: the disk has too little room for it.
    """
    return _read(gold_run_id, _Room.of(settings), sha256)[0]


def adopt(gold_run_id: str, settings: Settings) -> tuple[Gold, str]:
    """Open and check the gold of an earlier run; what a release without digests stored has them from now on.

    Args:
        gold_run_id: the run.
        settings: how much memory and disk images may take.

    Returns:
        The gold and its digest.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
        SettingsError: the disk has too little room for it.
    """
    gold, digests = _read(gold_run_id, _Room.of(settings))
    for split in gold.splits.values():
        if isinstance(split.images, ShardImages):
            split.images.require_all()
    if not verified_artifacts.has_digests(MlflowClient().get_run(gold_run_id).data.tags, ARTIFACT):
        verified_artifacts.adopt_folder(gold_run_id, ARTIFACT, digests)
    return gold, artifact_digest.of_files(digests)


@dataclass(frozen=True)
class _Room:
    """Bytes that images may take; None: all the memory that is left and no disk, or half of the disk.

    Attributes:
        memory: if they have more, they stay on disk.
        disk: that they may take there.
    """

    memory: int | None = None
    disk: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        memory, disk = settings.pipeline_gold_memory_mib, settings.gold_disk_bytes
        if memory is None:
            available = available_memory()
            return cls(None if available is None else int(available * MEMORY_SHARE), disk)
        return cls(memory * 2**20, disk)


def _read(gold_run_id: str, room: _Room, sha256: str | None = None) -> tuple[Gold, dict[str, str]]:
    """Return gold, and the SHA-256 of the files that have a tag of their own: the others' are in the description."""
    with tempfile.TemporaryDirectory(prefix="gold-") as name:
        folder = Path(name) / ARTIFACT
        text, digests = _fetch_description(gold_run_id, folder, sha256)
        if _format(text) == gold_tensors.FORMAT:
            return gold_tensors.load(folder), digests
    description = parse(text, where(gold_run_id))
    if room.memory is None and description.nbytes > (available_memory() or math.inf):
        raise SettingsError(
            f"the images of {where(gold_run_id)} have {description.nbytes / 2**30:.1f} GiB, and this stage keeps them "
            "in memory; give it more, or choose a smaller image_size"
        )
    most = {"most_memory": room.memory, "most_disk": room.disk}
    return reader.read(description, fetching(gold_run_id), **most, where=where(gold_run_id), fix=FIX), digests


def describe(gold_run_id: str, sha256: str | None = None) -> Description:
    """Return what gold in shards holds, checked as `open_made_by` does.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
    """
    with tempfile.TemporaryDirectory(prefix="gold-") as name:
        return parse(_fetch_description(gold_run_id, Path(name) / ARTIFACT, sha256)[0], where(gold_run_id))


def where(gold_run_id: str) -> str:
    """Name the gold of a run in errors."""
    return f"gold of run {gold_run_id}"


def _fetch_description(gold_run_id: str, folder: Path, sha256: str | None) -> tuple[bytes, dict[str, str]]:
    """Put the files that have a tag of their own into `folder`, and check them; return the description and digests."""
    if not exists(gold_run_id):
        if lacks := missing(gold_run_id):
            raise DataError(f"{ARTIFACT}/{lacks[0]} of run {gold_run_id} is missing in the store; {FIX_MISSING}")
        raise DataError(f"run {gold_run_id!r} has no artifact {ARTIFACT!r} (any more); run prepare again")
    fetch_file = fetching(gold_run_id)
    text = fetch_file(DESCRIPTION, folder).read_bytes()
    if _format(text) == gold_tensors.FORMAT:
        fetch_file(gold_tensors.TENSORS, folder)
    digests = verified_artifacts.require_folder(gold_run_id, ARTIFACT, folder, FIX)
    found = artifact_digest.of_files(digests)
    if sha256 is not None and found != sha256:
        raise ChangedError(
            f"the gold of run {gold_run_id} is not what prepare made or checked (SHA-256 {found[:12]}..., then "
            f"{sha256[:12]}...): its files and its tags were both changed; {FIX}, and find out who can write to "
            "MLflow and its store"
        )
    return text, digests


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
    names = _names(gold_run_id)
    return complete(names) or {gold_tensors.TENSORS, gold_tensors.DESCRIPTION} <= names


def missing(gold_run_id: str) -> list[str]:
    """Name the files that gold in shards should have and does not; none where the run or all of its gold is gone."""
    try:
        names = _names(gold_run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return []
    if DESCRIPTION not in names:
        return [DESCRIPTION] if names else []
    with tempfile.TemporaryDirectory(prefix="gold-") as folder:
        text = fetching(gold_run_id)(DESCRIPTION, Path(folder)).read_bytes()
    if _format(text) == gold_tensors.FORMAT:
        return [] if gold_tensors.TENSORS in names else [gold_tensors.TENSORS]
    return [name for name, _ in parse(text, where(gold_run_id)).files() if name not in names]


def _names(gold_run_id: str) -> set[str]:
    return {Path(file.path).name for file in MlflowClient().list_artifacts(gold_run_id, ARTIFACT)}


def store(gold: Gold) -> str:
    """Log `gold` to the active run, shard by shard, several at a time; returns its digest.

    Raises:
        RuntimeError: no run is active.
    """
    active = mlflow.active_run()
    if active is None:
        raise RuntimeError("start a run first")
    with tempfile.TemporaryDirectory(prefix="gold-") as folder, ThreadPoolExecutor(UPLOADS, "upload") as pool:
        shards, last = Path(folder) / "shards", Path(folder) / "last"
        uploads: deque[Future[None]] = deque()

        def upload(path: Path) -> None:
            MlflowClient().log_artifact(active.info.run_id, str(path), ARTIFACT)
            path.unlink()

        def closed(path: Path) -> None:
            if len(uploads) == UPLOADS:  # so many shards are on the disk, and the one that is written
                uploads.popleft().result()
            uploads.append(pool.submit(upload, path))

        writer.save(gold, shards, closed=closed)
        while uploads:
            uploads.popleft().result()
        last.mkdir()
        shutil.move(shards / DESCRIPTION, last)
        mlflow.log_artifacts(str(shards), ARTIFACT)
        return artifact_digest.of_files(verified_artifacts.log_folder(last, ARTIFACT))


def fetching(run_id: str, say: Callable[[str], object] | None = None) -> Fetch:
    """Return what gets a file of the run's gold from the store, and waits for one that is away.

    Args:
        run_id: the run.
        say: what is told about the wait; None: the log.
    """
    seconds = load_settings().pipeline_store_wait_seconds
    wait = StoreWait(seconds) if say is None else StoreWait(seconds, say)
    uri = wait(lambda: MlflowClient().get_run(run_id).info.artifact_uri, f"to read run {run_id}")

    def download(name: str, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)  # each time: it is gone where nobody wants the file any more
        try:
            return Path(mlflow.artifacts.download_artifacts(f"{uri}/{ARTIFACT}/{name}", dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            if name in _names(run_id):
                raise
            raise DataError(f"{ARTIFACT}/{name} of run {run_id} is missing in the store; {FIX_MISSING}") from error

    return lambda name, folder: wait(lambda: download(name, folder), f"to read {ARTIFACT}/{name} of run {run_id}")


def _format(text: bytes) -> object:
    """Return the format that a description states; None where it states none."""
    try:
        return json.loads(text)["format"]
    except (ValueError, KeyError, TypeError):
        return None

"""A prepare that is killed while it decodes: its retry decodes only what no part holds, and makes the same gold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tasks.contract.data import PrepareRequest, PrepareResult
from tasks.contract.messages import TaskIdentity
from tasks.records import decoded_store, gold_store
from tasks.records.tracking import connect
from tasks.runner.stage_process import execute
from tasks.settings import Settings
from tasks.vision.data import decoded_parts, images
from tests.waiting import until

IMAGES, SIDE = 120, 16
OF_A_PART = 25
PART_BYTES = OF_A_PART * 3 * SIDE**2
DECODED_BEFORE_KILL = 90  # three whole parts, and 15 images
# The stage as its process runs it, which stops decoding after so many images, and is to be killed then.
STAGE = f"""
import itertools, os, sys
from pathlib import Path
from tasks.runner.stage_process import run_stage
from tasks.vision.data import bronze, decoded_parts, images

decoded_parts.PART_BYTES = {PART_BYTES}
bronze.BATCH_IMAGES = 5
decode, count = images.pixels, itertools.count(1)

def pixels(*args):
    if next(count) > {DECODED_BEFORE_KILL}:
        sys.stdin.read()  # until the test ends
        os._exit(1)
    return decode(*args)

images.pixels = pixels
sys.exit(run_stage("prepare", sys.argv[1], Path(sys.argv[2])))
"""

Retry = Callable[..., PrepareResult]


def request(source: Path, dag_run_id: str = "killed") -> str:
    task = TaskIdentity(dag_id="daily", dag_run_id=dag_run_id, task_id="prepare")
    return PrepareRequest(task=task, dataset="image_folder", source=str(source)).model_dump_json()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each image that this process decodes."""
    seen: list[int] = []
    decode = images.pixels

    def pixels(image: Any, *args: Any) -> Any:
        seen.append(1)
        return decode(image, *args)

    monkeypatch.setattr(images, "pixels", pixels)
    return seen


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Retry:
    """Run the stage in this process, with parts as small as those of the killed one."""
    monkeypatch.setattr(decoded_parts, "PART_BYTES", PART_BYTES)

    def call(source: Path, dag_run_id: str = "killed") -> PrepareResult:
        result = execute("prepare", request(source, dag_run_id))
        assert isinstance(result, PrepareResult)
        return result

    return call


def kill(source: Path, settings: Settings, tmp_path: Path) -> str:
    """Kill the stage once it has stored what it decoded; returns its run."""
    command = [sys.executable, "-c", STAGE, request(source), str(tmp_path / "result.json")]
    stage = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    connect(settings)

    def stored() -> bool:
        return stage.poll() is not None or any(parts_of(run_id) == 3 for run_id in prepares())

    try:
        until(stored)
    finally:
        os.kill(stage.pid, signal.SIGKILL)
    output = stage.communicate(timeout=60)[0]
    assert stage.returncode == -signal.SIGKILL, output
    (run_id,) = prepares()
    return run_id


def prepares() -> list[str]:
    experiment = MlflowClient().get_experiment_by_name("tests")
    if experiment is None:
        return []
    runs = MlflowClient().search_runs([experiment.experiment_id], "tags.`pipeline.stage` = 'prepare'")
    return [run.info.run_id for run in runs]


def parts_of(run_id: str) -> int:
    """The number of parts whose digests are in the run's tags."""
    return sum(len(value.split()) - 1 for value in tags_of(run_id).values())


def tags_of(run_id: str) -> dict[str, str]:
    tags = MlflowClient().get_run(run_id).data.tags
    return {name: value for name, value in tags.items() if name.startswith(decoded_store.SHA256)}


def folder_of(run_id: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id)) / decoded_store.ARTIFACT


def gold_of(result: PrepareResult) -> str:
    return str(MlflowClient().get_run(result.run_id).data.tags[gold_store.GOLD_SHA256])


@pytest.mark.parametrize("packed", [False, True])
def test_the_retry_decodes_only_what_no_part_holds_and_makes_the_same_gold(
    packed: bool,
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    run: Retry,
    decoded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    source = photos
    if packed:
        source = tmp_path / "photos.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(photos, arcname="photos")
    run_id = kill(source, settings, tmp_path)
    assert len(list(folder_of(run_id).iterdir())) == 3

    result = run(source)
    assert result.run_id == run_id
    assert len(decoded) == IMAGES - 3 * OF_A_PART
    said = [record.getMessage() for record in caplog.records]
    assert f"{3 * OF_A_PART} different images were decoded by an earlier try and are not decoded again" in said
    assert f"bronze: {IMAGES} in, {IMAGES} out" in "\n".join(said)
    assert tags_of(run_id) == {}
    assert not folder_of(run_id).exists()

    MlflowClient().delete_run(run_id)
    undisturbed = run(source, "undisturbed")
    assert (undisturbed.reused, gold_of(undisturbed)) == (False, gold_of(result))
    assert len(decoded) == IMAGES - 3 * OF_A_PART + IMAGES


def test_a_part_that_is_not_what_was_stored_is_decoded_again(
    photos: Path, settings: Settings, tmp_path: Path, run: Retry, decoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """One was changed, one is missing, and one was put there by somebody who sets no tags."""
    run_id = kill(photos, settings, tmp_path)
    changed, missing, good = sorted(folder_of(run_id).iterdir())
    pixels = bytearray(changed.read_bytes())
    pixels[len(pixels) // 2] ^= 1
    changed.write_bytes(pixels)
    missing.rename(missing.with_name("foreign.npy"))
    result = run(photos)
    assert len(decoded) == IMAGES - OF_A_PART
    said = "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert f"decoded/{changed.name} of run {run_id} was changed in the store" in said
    assert "parts of decoded images that are missing in the store: 1; their images are decoded again" in said
    assert good.stem not in said
    assert not folder_of(run_id).exists()
    MlflowClient().delete_run(run_id)
    assert gold_of(run(photos, "undisturbed")) == gold_of(result)


def test_parts_of_a_source_that_changed_since_are_removed(
    photos: Path, settings: Settings, tmp_path: Path, run: Retry, decoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = kill(photos, settings, tmp_path)
    for path in sorted(photos.glob("cat/*.png")):
        Image.open(path).rotate(90).save(path)
    result = run(photos)
    assert (result.run_id, len(decoded)) == (run_id, IMAGES)
    assert "an earlier try decoded images of another source or size; they are not used" in caplog.text
    assert tags_of(run_id) == {}
    MlflowClient().delete_run(run_id)
    assert gold_of(run(photos, "undisturbed")) == gold_of(result)


def test_a_retry_that_is_killed_too_adds_to_what_is_stored(
    photos: Path, settings: Settings, tmp_path: Path, run: Retry, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = kill(photos, settings, tmp_path)
    with monkeypatch.context() as broken:
        broken.delattr(gold_store, "store")
        with pytest.raises(AttributeError):
            run(photos)
    assert len(decoded) == IMAGES - 3 * OF_A_PART
    assert parts_of(run_id) == 4
    run(photos)
    assert len(decoded) == IMAGES - 3 * OF_A_PART + IMAGES - 4 * OF_A_PART


def test_a_small_data_set_stores_no_part(
    photos: Path, run: Retry, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    stored = []
    monkeypatch.setattr(decoded_parts, "PART_BYTES", (IMAGES + 1) * 3 * SIDE**2)
    monkeypatch.setattr(decoded_store.DecodedStore, "store", lambda *args: stored.append(args))
    run(photos)
    assert (stored, len(decoded)) == ([], IMAGES)


def test_a_store_that_takes_no_part_does_not_stop_the_decoding(
    photos: Path, run: Retry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log_artifact = MlflowClient.log_artifact

    def away(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        if folder == decoded_store.ARTIFACT:
            raise ConnectionError("the store is away")
        log_artifact(self, run_id, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", away)
    result = run(photos)
    assert result.train_images + result.validation_images + result.test_images == IMAGES
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "25 decoded images were not stored for a retry (ConnectionError: the store is away)" in said[0]
    assert tags_of(result.run_id) == {}


def test_parts_that_cannot_be_removed_do_not_take_the_gold_with_them(
    photos: Path, run: Retry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(decoded_store, "get_artifact_repository", away)
    result = run(photos)
    assert MlflowClient().get_run(result.run_id).info.status == "FINISHED"
    assert "were not removed (ConnectionError: the store is away); `make gc` does it" in caplog.text
    assert len(list(folder_of(result.run_id).iterdir())) == IMAGES // OF_A_PART


def test_what_was_decoded_goes_too_when_a_retry_finds_gold_of_another_run(
    photos: Path, settings: Settings, tmp_path: Path, run: Retry
) -> None:
    run_id = kill(photos, settings, tmp_path)
    other = run(photos, "other")
    result = run(photos)
    assert (result.run_id, result.reused, gold_of(result)) == (run_id, True, gold_of(other))
    assert tags_of(run_id) == {}
    assert not folder_of(run_id).exists()

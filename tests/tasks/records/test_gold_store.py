from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tasks.errors import ChangedError, DataError, SettingsError
from tasks.records import gold_store, verified_artifacts
from tasks.records.tracking import connect
from tasks.settings import Settings, load_settings
from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.gold_tensors import TENSORS
from tasks.vision.data.shards import writer
from tasks.vision.data.shards.description import DESCRIPTION
from tasks.vision.data.shards.images import ShardImages
from tests.small_gold import read, save_as_earlier_releases, small_gold

SHARD = "train-00000-of-00001.npy"


@pytest.fixture
def experiment(settings: Settings) -> str:
    return connect(settings)


@pytest.fixture
def gold() -> Gold:
    split = Split(np.ones((2, 1, 8, 8), np.uint8), np.array([0, 1]), ("a", "b"))
    return Gold(split, split, split, ("cat", "dog"), (0.5,), (0.2,), "f" * 64, "pets")


def stored(experiment: str, gold: Gold) -> str:
    with mlflow.start_run(experiment_id=experiment) as run:
        gold_store.store(gold)
        mlflow.set_tag(gold_store.GOLD_RUN, run.info.run_id)
    return str(run.info.run_id)


def folder_of(run_id: str) -> Path:
    uri = mlflow.get_run(run_id).info.artifact_uri
    return Path(mlflow.artifacts.download_artifacts(f"{uri}/gold"))


def test_gold_is_fetched_through_the_run_that_made_it(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    fetched = gold_store.fetch(run_id)
    assert fetched.classes == gold.classes
    np.testing.assert_array_equal(fetched.train.images, gold.train.images)


def test_gold_is_fetched_through_a_run_that_used_it_again(experiment: str, gold: Gold) -> None:
    maker = stored(experiment, gold)
    with mlflow.start_run(experiment_id=experiment) as later:
        mlflow.set_tag(gold_store.GOLD_RUN, maker)
    assert gold_store.fetch(later.info.run_id).fingerprint == gold.fingerprint


def test_a_run_without_gold_is_named(experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.set_tag(gold_store.GOLD_RUN, run.info.run_id)
    with pytest.raises(DataError, match=f"run '{run.info.run_id}' has no artifact 'gold'"):
        gold_store.fetch(run.info.run_id)


def test_a_run_that_prepared_nothing_is_named(experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        pass
    with pytest.raises(DataError, match=r"has no tag 'pipeline.gold_run_id'"):
        gold_store.fetch(run.info.run_id)


def test_an_unknown_run_is_named(experiment: str) -> None:
    with pytest.raises(DataError, match="no run '0000"):
        gold_store.fetch("0" * 32)
    assert not gold_store.exists("0" * 32)


def test_a_deleted_run_has_no_gold(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    assert gold_store.exists(run_id)
    mlflow.delete_run(run_id)
    assert not gold_store.exists(run_id)
    assert gold_store.missing(run_id) == gold_store.missing("0" * 32) == []


@pytest.mark.parametrize("file", [SHARD, "test-index.safetensors", DESCRIPTION])
def test_half_a_gold_does_not_exist_and_what_it_lacks_is_named(experiment: str, gold: Gold, file: str) -> None:
    run_id = stored(experiment, gold)
    assert gold_store.missing(run_id) == []
    (folder_of(run_id) / file).unlink()
    assert not gold_store.exists(run_id)
    assert gold_store.missing(run_id) == [file]
    with pytest.raises(DataError, match=rf"gold/{file} of run {run_id} is missing in the store; .* another DAG run"):
        gold_store.fetch(run_id)


@pytest.mark.parametrize("memory", [None, "0"])
def test_images_stay_on_disk_where_they_do_not_fit_into_memory(
    experiment: str, gold: Gold, monkeypatch: pytest.MonkeyPatch, memory: str | None
) -> None:
    run_id = stored(experiment, gold)
    if memory is not None:
        monkeypatch.setenv("PIPELINE_GOLD_MEMORY_MIB", memory)
    images = gold_store.open_made_by(run_id, None, load_settings()).train.images
    assert isinstance(images, np.ndarray if memory is None else ShardImages)
    np.testing.assert_array_equal(images[:], gold.train.images)


def test_a_shard_that_goes_missing_is_named(experiment: str, gold: Gold, settings: Settings) -> None:
    run_id = stored(experiment, gold)
    opened = gold_store.open_made_by(run_id, None, settings.model_copy(update={"pipeline_gold_memory_mib": 0}))
    (folder_of(run_id) / SHARD).unlink()
    with pytest.raises(DataError, match=rf"gold/{SHARD} of run {run_id} is missing in the store; .* DAG run"):
        opened.train.images[0]


def stored_before_digests(experiment: str, gold: Gold) -> str:
    """Gold as releases stored it that had neither shards nor digests."""
    run_id = stored(experiment, gold)
    save_as_earlier_releases(gold, folder_of(run_id))
    for name in [name for name in mlflow.get_run(run_id).data.tags if name.startswith(verified_artifacts.TAG)]:
        MlflowClient().delete_tag(run_id, name)
    return run_id


def poison(run_id: str) -> None:
    """Name another class: valid gold, with labels that are wrong."""
    file = folder_of(run_id) / DESCRIPTION
    assert '"dog"' in file.read_text()
    file.write_text(file.read_text().replace('"dog"', '"wolf"'))


def test_gold_that_someone_changed_is_refused(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    poison(run_id)
    assert read(folder_of(run_id)).classes == ("cat", "wolf")  # nothing but the digest tells
    with pytest.raises(ChangedError, match=rf"gold/gold.json of run {run_id} was changed in the store .*force="):
        gold_store.fetch(run_id)


@pytest.mark.parametrize("file", [SHARD, "train-index.safetensors"])
def test_damaged_gold_is_refused(experiment: str, gold: Gold, file: str) -> None:
    run_id = stored(experiment, gold)
    (folder_of(run_id) / file).write_bytes(b"damaged")
    with pytest.raises(ChangedError, match=rf"{file} of gold of run {run_id} was changed"):
        gold_store.fetch(run_id)


def test_the_tags_of_a_run_do_not_grow_with_its_shards(experiment: str, gold: Gold) -> None:
    tags = mlflow.get_run(stored(experiment, gold)).data.tags
    assert [name for name in tags if name.startswith(verified_artifacts.TAG)] == ["pipeline.sha256.gold/gold.json"]


def test_a_file_that_someone_added_is_not_read(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    (folder_of(run_id) / "more.json").write_text("{}")
    (folder_of(run_id) / TENSORS).write_bytes(b"other")
    assert gold_store.fetch(run_id).classes == gold.classes


def test_gold_of_an_earlier_release_is_read_and_can_be_adopted(experiment: str, gold: Gold, settings: Settings) -> None:
    run_id = stored_before_digests(experiment, gold)
    assert gold_store.fetch(run_id).classes == gold.classes
    fetched, _ = gold_store.adopt(run_id, settings)
    np.testing.assert_array_equal(fetched.train.images, gold.train.images[:])
    poison(run_id)
    with pytest.raises(ChangedError, match="was changed in the store"):
        gold_store.fetch(run_id)


def test_damaged_gold_of_an_earlier_release_is_not_adopted(experiment: str, gold: Gold, settings: Settings) -> None:
    run_id = stored_before_digests(experiment, gold)
    (folder_of(run_id) / TENSORS).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be used"):
        gold_store.adopt(run_id, settings)
    assert not any(name.startswith(verified_artifacts.TAG) for name in mlflow.get_run(run_id).data.tags)


def test_every_shard_of_gold_that_is_adopted_is_checked_also_on_disk(
    experiment: str, gold: Gold, settings: Settings
) -> None:
    on_disk = settings.model_copy(update={"pipeline_gold_memory_mib": 0})
    run_id = stored(experiment, gold)
    adopted, _ = gold_store.adopt(run_id, on_disk)
    assert isinstance(adopted.train.images, ShardImages)
    file = folder_of(run_id) / "test-00000-of-00001.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ChangedError, match=f"{file.name} of gold of run {run_id} was changed in the store"):
        gold_store.adopt(run_id, on_disk)


def test_gold_that_has_to_be_in_memory_and_does_not_fit_is_refused_before_it_is_fetched(
    experiment: str, gold: Gold, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = stored(experiment, gold)
    (folder_of(run_id) / SHARD).write_bytes(b"not looked at")
    monkeypatch.setattr(gold_store, "available_memory", lambda: gold.nbytes // 2)
    with pytest.raises(SettingsError, match=rf"images of gold of run {run_id} have 0.0 GiB, .* choose a smaller"):
        gold_store.fetch_made_by(run_id)


def test_shards_leave_the_disk_as_they_are_stored(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare would need room for all of them, besides the images that they are made of."""
    gold, seen = small_gold(train=40), []
    log_artifact = MlflowClient.log_artifact

    def logged(self: MlflowClient, run_id: str, path: str, place: str | None = None) -> None:
        seen.append((len(list(Path(path).parent.glob("*.npy"))), place))
        log_artifact(self, run_id, path, place)

    monkeypatch.setattr(MlflowClient, "log_artifact", logged)
    monkeypatch.setattr(writer, "save", partial(writer.save, shard_bytes=gold.train.images[0].nbytes))
    run_id = stored(experiment, gold)
    assert [place for _, place in seen] == ["gold"] * 45
    assert max(files for files, _ in seen) <= gold_store.UPLOADS + 1
    np.testing.assert_array_equal(gold_store.fetch(run_id).train.images, gold.train.images)


def test_a_shard_that_cannot_be_stored_ends_it_without_a_description(
    experiment: str, gold: Gold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    with mlflow.start_run(experiment_id=experiment) as run, pytest.raises(OSError, match="no room"):
        gold_store.store(gold)
    assert not MlflowClient().list_artifacts(run.info.run_id, "gold")


def test_what_an_earlier_try_on_fewer_images_left_does_no_harm(
    experiment: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix in S3 may have grown when a killed prepare is tried again in the same run."""
    earlier, gold = small_gold(train=10), small_gold(train=40)
    shard_bytes = 3 * gold.train.images[0].nbytes
    monkeypatch.setattr(writer, "save", partial(writer.save, shard_bytes=shard_bytes))
    with mlflow.start_run(experiment_id=experiment) as run:
        with monkeypatch.context() as killed:
            killed.setattr(verified_artifacts, "log_folder", lambda *_: sys.exit(137))
            with pytest.raises(SystemExit):
                gold_store.store(earlier)
        sha256 = gold_store.store(gold)
    run_id = run.info.run_id
    assert len([file for file in folder_of(run_id).iterdir() if file.name.startswith("train-0")]) == 4 + 14
    assert gold_store.exists(run_id)
    fetched, found = gold_store.adopt(run_id, settings)
    assert found == sha256
    np.testing.assert_array_equal(fetched.train.images, gold.train.images)

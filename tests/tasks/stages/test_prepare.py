"""prepare from request to result, on a real MLflow store and real files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from tasks.contract.data import PrepareRequest, PrepareResult
from tasks.contract.messages import TaskIdentity
from tasks.errors import ChangedError, DataError, ModelError, PipelineError
from tasks.records import gold_store, verified_artifacts
from tasks.records.tracking import connect
from tasks.runner.stage_process import execute
from tasks.settings import Settings
from tasks.vision.data import bronze
from tasks.vision.data.gold_tensors import TENSORS
from tasks.vision.data.shards.description import DESCRIPTION
from tests.small_gold import save_as_earlier_releases
from tests.tasks.store_copies import DATABASE, copy_store

Prepare = Callable[..., PrepareResult]


def run_prepare(attempt: str, **parameters: Any) -> PrepareResult:
    """Run the stage as its container does; `attempt` names the DAG run."""
    task = TaskIdentity(dag_id="daily", dag_run_id=attempt, task_id="prepare")
    result = execute("prepare", PrepareRequest(task=task, **parameters).model_dump_json())
    assert isinstance(result, PrepareResult)
    return result


@pytest.fixture
def prepare(settings: Settings) -> Prepare:
    """Run the stage on the test's own store."""

    def run(attempt: str = "a", **parameters: Any) -> PrepareResult:
        return run_prepare(attempt, **parameters)

    return run


def write_pets(folder: Path) -> None:
    """Two classes of 20 training and 5 test images, and one file for each thing that can be wrong."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for split, count in (("train", 20), ("test", 5)):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                image.save(folder / split / label / f"{index}.png")
    cat, dog = folder / "train/cat", folder / "train/dog"
    (cat / "cut.png").write_bytes((cat / "0.png").read_bytes()[:500])
    (cat / "text.jpg").write_bytes(b"not an image")
    (cat / "anim.gif").write_bytes(b"GIF89a")
    Image.new("RGB", (4, 4)).save(cat / "tiny.png")
    shutil.copy(dog / "1.png", dog / "copy.png")
    shutil.copy(cat / "2.png", dog / "cat-too.png")
    shutil.copy(folder / "test/dog/3.png", dog / "leak.png")
    (folder / "README").write_text("pets")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write_pets(tmp_path / "pets")
    return tmp_path / "pets"


@dataclass(frozen=True)
class Made:
    """A store with one prepare run, of the DAG run `a`, to copy."""

    home: Path
    source: str
    result: PrepareResult


def make(home: Path, migrated_store: Path, **parameters: Any) -> Made:
    """Run the stage on a new store."""
    shutil.copy(migrated_store, home / DATABASE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIPELINE_HOME", str(home))
        environment.setenv("PIPELINE_EXPERIMENT", "tests")
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            environment.delenv(name)
        return Made(home, parameters.get("source", ""), run_prepare("a", **parameters))


@pytest.fixture(scope="module")
def pets_store(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    source = tmp_path_factory.mktemp("data") / "pets"
    write_pets(source)
    return make(tmp_path_factory.mktemp("pets"), migrated_store, dataset="image_folder", source=str(source))


@pytest.fixture(scope="module")
def digits_store(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("digits"), migrated_store)


def begin_with(made: Made, settings: Settings) -> PrepareResult:
    copy_store(made.home, settings.pipeline_home)
    connect(settings)
    return made.result


@pytest.fixture
def first_pets(pets_store: Made, settings: Settings) -> PrepareResult:
    """The test's store has a run of the images of `pets`, of the DAG run `a`."""
    return begin_with(pets_store, settings)


@pytest.fixture
def first_digits(digits_store: Made, settings: Settings) -> PrepareResult:
    """The test's store has a run of the digits, of the DAG run `a`."""
    return begin_with(digits_store, settings)


REMOVED = {
    "README": "outside the layout",
    "train/cat/2.png": "same image under different classes",
    "train/cat/anim.gif": "unreadable",
    "train/cat/cut.png": "unreadable",
    "train/cat/text.jpg": "unreadable",
    "train/cat/tiny.png": "wrong size",
    "train/dog/cat-too.png": "same image under different classes",
    "train/dog/copy.png": "duplicate",
    "train/dog/leak.png": "also in test",
}


def artifact(run_id: str, path: str) -> bytes:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path)).read_bytes()


def run_of(result: PrepareResult) -> Run:
    return MlflowClient().get_run(result.run_id)


SHARD = "train-00000-of-00001.npy"


def folder_of(result: PrepareResult) -> Path:
    uri = mlflow.get_run(result.run_id).info.artifact_uri
    return Path(mlflow.artifacts.download_artifacts(f"{uri}/gold"))


def test_digits_need_nothing_but_the_package(first_digits: PrepareResult) -> None:
    result = first_digits
    assert (result.classes, result.reused, result.removed_images) == (10, False, 0)
    assert (result.train_images, result.validation_images, result.test_images) == (1169, 269, 359)
    gold = gold_store.fetch(result.run_id)
    assert (gold.shape, gold.dataset, gold.fingerprint) == ((1, 8, 8), "digits", result.fingerprint)


def test_every_removal_is_listed_with_its_reason(first_pets: PrepareResult) -> None:
    result = first_pets
    text = artifact(result.run_id, "manifest/removed.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["name"]: row["reason"] for row in rows} == REMOVED
    assert result.removed_images == len(REMOVED)
    assert (result.train_images, result.validation_images, result.test_images) == (33, 6, 10)
    kept = {name for split in gold_store.fetch(result.run_id).splits.values() for name in split.names}
    assert not kept & set(REMOVED)


def test_each_layer_says_what_came_in_and_went_out(first_pets: PrepareResult) -> None:
    metrics = run_of(first_pets).data.metrics
    rows = {
        name: (metrics[f"{name}.rows_in"], metrics[f"{name}.rows_out"]) for name in ("raw", "bronze", "silver", "gold")
    }
    assert rows == {"raw": (58, 57), "bronze": (57, 57), "silver": (57, 49), "gold": (49, 49)}
    assert all(metrics[f"{name}.seconds"] >= 0 for name in rows)
    assert metrics["images.train"] == 33
    assert metrics["images.removed"] == 9


def test_the_run_holds_all_that_the_next_stages_and_readers_look_for(
    first_pets: PrepareResult, pets_store: Made
) -> None:
    result = first_pets
    run = run_of(result)
    assert run.data.tags["pipeline.gold_run_id"] == result.run_id
    assert run.data.tags["pipeline.fingerprint"] == result.fingerprint
    assert run.data.tags["pipeline.dataset"] == "image_folder"
    assert "9 files left out" in run.data.tags["mlflow.note.content"]
    for picture in ("class_histogram", "sample_grid"):
        assert Image.open(io.BytesIO(artifact(result.run_id, f"plots/{picture}.png"))).width >= 800
    lines = [
        json.loads(line) for line in gzip.decompress(artifact(result.run_id, "manifest/bronze.jsonl.gz")).splitlines()
    ]
    assert len(lines) == 57
    assert {len(line["sha256"]) for line in lines} == {64}
    assert {"name", "split", "class", "bytes", "width", "height"} < set(lines[0])
    inputs = {item.dataset.name: item.dataset for item in run.inputs.dataset_inputs}
    assert set(inputs) == {"image_folder-train", "image_folder-validation", "image_folder-test"}
    train = inputs["image_folder-train"]
    assert result.fingerprint.startswith(train.digest)
    assert json.loads(train.source)["uri"] == pets_store.source
    assert json.loads(train.profile)["features_shape"] == [33, 3, 24, 24]


def test_the_same_data_elsewhere_use_the_earlier_gold_and_run_no_layer(
    first_pets: PrepareResult, prepare: Prepare, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_pets
    monkeypatch.delattr(bronze, "read")
    again = prepare("b", dataset="image_folder", source=str(pets), registered_model="other")
    assert again.reused
    assert again.run_id != first.run_id
    assert again.model_dump(exclude={"run_id", "seconds", "reused"}) == first.model_dump(
        exclude={"run_id", "seconds", "reused"}
    )
    run = run_of(again)
    assert run.data.tags["pipeline.gold_run_id"] == first.run_id
    assert run.data.metrics["images.removed"] == 9
    assert "bronze.rows_in" not in run.data.metrics
    assert {file.path for file in MlflowClient().list_artifacts(again.run_id)} == {"plots"}
    third = prepare("c", dataset="image_folder", source=str(pets))
    assert run_of(third).data.tags["pipeline.gold_run_id"] == first.run_id


@pytest.mark.usefixtures("drawn_plots")
def test_near_duplicates_of_test_images_are_reported_and_stay(
    prepare: Prepare, pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(1)
    for path in sorted(pets.rglob("*/*/?.png")):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((40, 40), Image.Resampling.BICUBIC).save(path)
    Image.open(pets / "test/dog/3.png").save(pets / "train/cat/3.png", "JPEG", quality=50)
    caplog.set_level("INFO")
    result = prepare("a", dataset="image_folder", source=str(pets))
    run = run_of(result)
    assert run.data.metrics["near_duplicates"] == 1
    assert run.data.metrics["near_duplicates.seconds"] > 0
    (row,) = csv.DictReader(io.StringIO(artifact(result.run_id, "manifest/near_duplicates.csv").decode()))
    assert (row["test_image"], row["other_image"]) == ("test/dog/3.png", "train/cat/3.png")
    assert (row["class"], row["other_class"], row["mirrored"]) == ("dog", "cat", "no")
    assert Image.open(io.BytesIO(artifact(result.run_id, "plots/near_duplicates.png"))).width >= 800
    (warning,) = (record.message for record in caplog.records if record.message.startswith("near-duplicates"))
    assert "1 of 10 test images" in warning
    assert "'test/dog/3.png' and 'train/cat/3.png'" in warning
    gold = gold_store.fetch(result.run_id)
    assert "test/dog/3.png" in gold.test.names
    assert "train/cat/3.png" in (*gold.train.names, *gold.validation.names)
    again = run_of(prepare("b", dataset="image_folder", source=str(pets)))
    assert "near_duplicates" not in again.data.metrics
    assert "`manifest/near_duplicates.csv` there, too" in again.data.tags["mlflow.note.content"]


def test_near_duplicates_of_small_images_are_not_looked_for(prepare: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    metrics = run_of(prepare()).data.metrics
    assert not [name for name in metrics if "near" in name]
    assert "near-duplicates: not looked for in images of under 32 pixels" in [r.message for r in caplog.records]


def test_corrections_change_labels_and_leave_images_out(
    first_pets: PrepareResult, prepare: Prepare, pets: Path, tmp_path: Path
) -> None:
    table = tmp_path / "suspected_labels.csv"
    table.write_text("file,label,was\ntrain/cat/0.png,dog,cat\ntest/dog/0.png,,dog\ntrain/cat/cut.png,,cat\n")
    plain = first_pets
    result = prepare("b", dataset="image_folder", source=str(pets), corrections=str(table))
    assert (result.reused, result.removed_images) == (False, len(REMOVED) + 1)  # cut.png is left out either way
    assert result.fingerprint != plain.fingerprint
    gold = gold_store.fetch(result.run_id)
    labels = {
        name: gold.classes[label]
        for split in gold.splits.values()
        for name, label in zip(split.names, split.labels.tolist(), strict=True)
    }
    assert labels["train/cat/0.png"] == "dog"
    assert labels["train/cat/1.png"] == "cat"
    assert "test/dog/0.png" not in labels
    rows = csv.DictReader(io.StringIO(artifact(result.run_id, "manifest/removed.csv").decode()))
    reasons = {row["name"]: (row["reason"], row["detail"]) for row in rows}
    assert reasons["test/dog/0.png"] == ("left out by corrections", f"corrections: {table}, line 3")
    run = run_of(result)
    assert run.data.tags["pipeline.corrections_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert run.data.params["corrections"] == str(table)
    assert "pipeline.corrections_sha256" not in run_of(plain).data.tags
    assert "corrections" not in run_of(plain).data.params


def test_the_same_corrections_elsewhere_use_the_earlier_gold_and_others_do_not(
    prepare: Prepare, pets: Path, tmp_path: Path
) -> None:
    tables = {"one": "train/cat/0.png,dog", "copy": "train/cat/0.png,dog", "other": "train/cat/0.png,"}
    for name, line in tables.items():
        (tmp_path / f"{name}.csv").write_text(f"file,label\n{line}\n")
    made = {
        name: prepare(name, dataset="image_folder", source=str(pets), corrections=str(tmp_path / f"{name}.csv"))
        for name in tables
    }
    assert {name: result.reused for name, result in made.items()} == {"one": False, "copy": True, "other": False}
    assert made["one"].fingerprint == made["copy"].fingerprint
    assert not prepare("none", dataset="image_folder", source=str(pets)).reused


def test_images_left_out_by_a_person_do_not_count_for_the_limit(prepare: Prepare, pets: Path, tmp_path: Path) -> None:
    lines = [f"train/{label}/{index}.png," for label in ("cat", "dog") for index in range(4, 14)]
    (tmp_path / "fixed.csv").write_text("\n".join(["file,label", *lines]))
    fields = {"dataset": "image_folder", "source": str(pets), "corrections": str(tmp_path / "fixed.csv")}
    result = prepare("a", **fields)
    assert result.removed_images == len(REMOVED) + 20  # 29 of 58, and only 9 of 38 count
    assert prepare("b", **fields).reused


def test_corrections_of_digits_are_by_the_names_in_their_gold(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "fixed.csv").write_text("file,label\ntrain/0/00000,8\ntrain/1/00001,\n")
    result = prepare(corrections=str(tmp_path / "fixed.csv"))
    assert (result.removed_images, result.classes) == (1, 10)
    gold = gold_store.fetch(result.run_id)
    labels = {n: int(k) for s in gold.splits.values() for n, k in zip(s.names, s.labels, strict=True)}
    assert labels["train/0/00000"] == 8


def test_corrections_may_come_from_a_run(first_pets: PrepareResult, prepare: Prepare, pets: Path) -> None:
    first = first_pets
    MlflowClient().log_text(first.run_id, "file,label\ntrain/cat/0.png,dog\n", "suspected_labels.csv")
    address = f"runs:/{first.run_id}/suspected_labels.csv"
    assert not prepare("b", dataset="image_folder", source=str(pets), corrections=address).reused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "corrections='"),
        ("", "no column 'file'"),
        ("file,label\ntrain/cat/nothing.png,dog\n", "1 of 1 files are no images of the data set"),
        ("file,label\ntrain/cat/0.png,bird\n", "label 'bird' of 'train/cat/0.png' is no class"),
        ("file,label\nREADME,dog\n", "1 of 1 files are no images of the data set ('README')"),
    ],
)
def test_bad_corrections_stop_the_run_before_any_image_is_read(
    prepare: Prepare, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, says: str
) -> None:
    monkeypatch.delattr(bronze, "read")
    if text is not None:
        (tmp_path / "fixed.csv").write_text(text)
    with pytest.raises(DataError) as error:
        prepare(dataset="image_folder", source=str(pets), corrections=str(tmp_path / "fixed.csv"))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_corrections_are_read_before_the_source(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^corrections='.*none.csv': no such file"):
        prepare(dataset="image_folder", source=str(tmp_path / "nowhere"), corrections=str(tmp_path / "none.csv"))


def test_over_a_quarter_left_out_stops_the_run_unless_more_is_allowed(prepare: Prepare, pets: Path) -> None:
    for index in range(20):
        (pets / f"train/cat/broken{index}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        prepare("a", dataset="image_folder", source=str(pets))
    assert "29 of 78 files of" in str(error.value)
    assert "over the limit of 25%: 23 unreadable ('train/cat/anim.gif': " in str(error.value)
    assert "2 same image under different classes (" in str(error.value)
    (failed,) = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name("tests").experiment_id], "tags.`pipeline.stage` = 'prepare'"
    )
    assert b"broken19.jpg" in artifact(failed.info.run_id, "manifest/removed.csv")
    result = prepare("b", dataset="image_folder", source=str(pets), max_left_out=0.5)
    assert (result.removed_images, result.headline) == (29, "49 images, 2 classes, 29 left out")
    with pytest.raises(DataError, match="29 of 78 files"):  # the gold of the other run is there, but not allowed
        prepare("c", dataset="image_folder", source=str(pets))
    assert prepare("d", dataset="image_folder", source=str(pets), max_left_out=0.4).reused


def test_too_many_files_outside_the_layout_stop_the_run_before_any_image_is_read(
    prepare: Prepare, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(bronze, "read")
    for index in range(30):
        (pets / f"notes{index}.txt").write_text("text")
    with pytest.raises(DataError, match=r"31 of 88 files of .*: 31 outside the layout \('README', 'notes0.txt', …\)"):
        prepare(dataset="image_folder", source=str(pets))


def test_what_was_understood_is_logged_before_any_image_is_read(
    prepare: Prepare, pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(pets / "test", pets / "val")
    for path in (pets / "val").rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    caplog.set_level("INFO")
    result = prepare(dataset="image_folder", source=str(pets))
    said = [record.message for record in caplog.records]
    first = said.index("layout: class folders in train/, val/, test/; not used: 1 of 68 files")
    assert said[first + 1] == "splits: 47 train, 10 validation, 10 test"
    assert said[first + 2] == "classes: 2 ('cat', 'dog')"
    assert first + 2 < min(said.index(line) for line in said if line.startswith("images read"))
    assert (result.train_images, result.validation_images, result.test_images) == (39, 10, 10)


def test_labels_from_a_sheet_go_into_gold_and_its_fingerprint(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(20):
        image = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(folder / f"images/{index}.png")

    def write(swapped: bool) -> None:
        rows = [f"{index},{('ant', 'bee')[(index + swapped) % 2]}" for index in range(20)]
        (folder / "labels.csv").write_text("\n".join(["id,species", *rows]))

    write(False)
    first = prepare("a", dataset="image_folder", source=str(folder))
    gold = gold_store.fetch(first.run_id)
    label = dict(zip(gold.train.names, gold.train.labels.tolist(), strict=True))
    assert all(label[name] == int(name.split("/")[1].split(".")[0]) % 2 for name in label)
    write(True)
    assert prepare("b", dataset="image_folder", source=str(folder)).fingerprint != first.fingerprint
    write(False)
    assert prepare("c", dataset="image_folder", source=str(folder)).reused


def test_metadata_go_with_the_test_images_and_make_other_gold(
    first_pets: PrepareResult, prepare: Prepare, pets: Path
) -> None:
    first = first_pets
    (pets / "test/metadata.csv").write_text("file_name,camera\ncat/0.png,left\ndog/3.png,right\n")
    result = prepare("b", dataset="image_folder", source=str(pets))
    assert not result.reused
    assert result.removed_images == first.removed_images  # it is no file that was left out
    test = gold_store.fetch(result.run_id).test
    cameras = dict(zip(test.names, test.columns["camera"], strict=True))
    assert (cameras["test/cat/0.png"], cameras["test/dog/3.png"], cameras["test/dog/0.png"]) == ("left", "right", "")
    assert "Metadata columns: `camera`." in run_of(result).data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("parameters", "licence"),
    [({}, "CC BY 4.0 (Optical"), ({"licence": "CC0"}, "CC0"), ({"dataset": "image_folder"}, "not stated")],
)
def test_the_licence_of_the_data_is_a_tag(
    prepare: Prepare, pets: Path, parameters: dict[str, str], licence: str
) -> None:
    source = str(pets) if parameters.get("dataset") else None
    result = prepare(source=source, **parameters)
    assert run_of(result).data.tags["pipeline.data_licence"].startswith(licence)


def test_another_licence_leaves_the_gold_as_it_is(first_digits: PrepareResult, prepare: Prepare) -> None:
    first = first_digits
    again = prepare("b", licence="CC0")
    assert (again.reused, again.fingerprint) == (True, first.fingerprint)
    assert run_of(again).data.tags["pipeline.data_licence"] == "CC0"


@pytest.mark.parametrize("other", [{"data_seed": 1}, {"image_size": 16}, {"validation_fraction": 0.3}])
def test_other_settings_make_other_gold(first_digits: PrepareResult, prepare: Prepare, other: dict[str, Any]) -> None:
    first, second = first_digits, prepare("b", **other)
    assert not second.reused
    assert second.fingerprint != first.fingerprint


def made_earlier(result: PrepareResult) -> None:
    """Make a run as one of a release that had neither shards nor digests."""
    save_as_earlier_releases(gold_store.fetch(result.run_id), folder_of(result))
    for name in run_of(result).data.tags:
        if name.startswith(verified_artifacts.TAG):
            MlflowClient().delete_tag(result.run_id, name)


@pytest.mark.parametrize("harm", ["removed", "damaged in an earlier release"])
def test_gold_that_is_gone_or_damaged_is_made_again(first_digits: PrepareResult, prepare: Prepare, harm: str) -> None:
    first = first_digits
    if harm == "removed":
        (folder_of(first) / SHARD).unlink()
    else:
        made_earlier(first)
        (folder_of(first) / TENSORS).write_bytes(b"damaged")
    second = prepare("b")
    assert not second.reused
    assert second.fingerprint == first.fingerprint
    assert run_of(second).data.tags["pipeline.gold_run_id"] == second.run_id


def test_gold_that_lost_a_shard_is_made_again_as_it_was_and_a_version_judged_on_it_stays_judged(
    first_digits: PrepareResult, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    first = first_digits
    logged = run_of(first).data.tags
    client, tags = MlflowClient(), {"pipeline.prepare_run_id": first.run_id, "pipeline.fingerprint": first.fingerprint}
    client.create_registered_model("pets")
    tags |= {gold_store.GOLD_SHA256: logged[gold_store.GOLD_SHA256]}
    client.create_model_version("pets", run_of(first).info.artifact_uri, first.run_id, tags=tags)
    (folder_of(first) / SHARD).unlink()

    again = prepare("b", registered_model="pets")
    assert f"the gold of run {first.run_id} is made again: the store has lost {SHARD}" in caplog.messages
    assert not again.reused
    assert run_of(again).data.tags[gold_store.GOLD_SHA256] == logged[gold_store.GOLD_SHA256]
    assert prepare("c", registered_model="pets").reused
    with pytest.raises(DataError, match=rf"gold/{SHARD} of run {first.run_id} is missing in the store; restore it"):
        gold_store.fetch(first.run_id)


def test_gold_that_someone_changed_stops_the_day(first_digits: PrepareResult, prepare: Prepare) -> None:
    first = first_digits
    description, shard = folder_of(first) / DESCRIPTION, folder_of(first) / SHARD
    text, pixels = description.read_text(), shard.read_bytes()
    description.write_text(text.replace('"0"', '"O"', 1))
    with pytest.raises(ChangedError, match=f"gold/gold.json of run {first.run_id} was changed in the store"):
        prepare("b")
    description.write_text(text)
    shard.write_bytes(pixels[:-1] + b"?")
    with pytest.raises(ChangedError, match=f"{SHARD} of gold of run {first.run_id} was changed in the store"):
        prepare("b")
    forced = prepare("c", force=["prepare"])
    assert (forced.reused, forced.fingerprint) == (False, first.fingerprint)
    assert prepare("d").reused  # the new one


def test_gold_of_an_earlier_release_cannot_be_changed_once_it_was_reused(
    first_digits: PrepareResult, prepare: Prepare
) -> None:
    made_earlier(first_digits)
    assert prepare("b").reused
    (folder_of(first_digits) / TENSORS).write_bytes(b"damaged")
    with pytest.raises(ChangedError, match="was changed in the store"):
        prepare("c")


def test_gold_of_a_run_that_failed_is_not_used(first_digits: PrepareResult, prepare: Prepare) -> None:
    first = first_digits
    MlflowClient().set_terminated(first.run_id, "FAILED")
    assert not prepare("b").reused


def test_the_same_data_make_the_same_bytes(first_pets: PrepareResult, prepare: Prepare, pets: Path) -> None:
    first = first_pets
    MlflowClient().delete_run(first.run_id)
    second = prepare("b", dataset="image_folder", source=str(pets))
    assert not second.reused
    for path in (
        f"gold/{SHARD}",
        "gold/train-index.safetensors",
        "gold/gold.json",
        "manifest/bronze.jsonl.gz",
        "manifest/removed.csv",
    ):
        assert artifact(first.run_id, path) == artifact(second.run_id, path), path


def test_a_retry_goes_on_in_the_same_run(prepare: Prepare, pets: Path) -> None:
    first = prepare(dataset="image_folder", source=str(pets))
    MlflowClient().set_terminated(first.run_id, "FAILED")
    second = prepare(dataset="image_folder", source=str(pets))
    assert second.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})


def test_an_archive_makes_the_tensors_of_its_folder(
    first_pets: PrepareResult, prepare: Prepare, pets: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as archive:
        archive.add(pets, arcname="pets-v1")
    folder = first_pets
    packed = prepare("b", dataset="image_folder", source=str(tmp_path / "pets.tar.gz"))
    assert artifact(folder.run_id, f"gold/{SHARD}") == artifact(packed.run_id, f"gold/{SHARD}")


def champion_of(settings: Settings, classes: list[str]) -> None:
    client = MlflowClient()
    with mlflow.start_run(experiment_id=client.get_experiment_by_name("tests").experiment_id) as run:
        mlflow.log_dict(classes, "classes.json")
    client.create_registered_model("pets")
    client.create_model_version("pets", source=f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    client.set_registered_model_alias("pets", "champion", "1")


@pytest.mark.usefixtures("first_pets")
def test_a_champion_of_other_classes_stops_it_before_any_image_is_read(
    prepare: Prepare, settings: Settings, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion_of(settings, ["bird", "cat"])
    monkeypatch.delattr(bronze, "read")
    for source in (pets, pets / "."):  # gold that could be used again is no way round it
        with pytest.raises(ModelError, match="registered_model of its own"):
            prepare(f"b{source}".replace("/", "-"), dataset="image_folder", source=str(source), registered_model="pets")


@pytest.mark.usefixtures("first_pets")
def test_a_champion_of_the_same_classes_does_not(prepare: Prepare, settings: Settings, pets: Path) -> None:
    champion_of(settings, ["cat", "dog"])
    assert prepare("b", dataset="image_folder", source=str(pets), registered_model="pets").reused


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("missing", "does not exist; give a folder"),
        ("empty", "is empty; it must hold train/CLASS"),
        ("one class", "only the class 'cat'"),
        ("class only in test", "the class 'emu' only in test/"),
        ("too few", "class 'dog' has 2 usable training"),
        ("all corrupt", "58 of 58 files of"),
        ("no archive", "is not an archive; give"),
    ],
)
def test_a_bad_source_ends_in_one_line_and_leaves_a_failed_run_without_gold(
    prepare: Prepare, pets: Path, tmp_path: Path, harm: str, says: str
) -> None:
    source = pets
    if harm == "missing":
        source = tmp_path / "nowhere"
    elif harm == "empty":
        source = tmp_path / "empty"
        source.mkdir()
    elif harm == "one class":
        shutil.rmtree(pets / "train/dog")
        shutil.rmtree(pets / "test/dog")
    elif harm == "class only in test":
        shutil.copytree(pets / "test/dog", pets / "test/emu")
    elif harm == "too few":
        shutil.rmtree(pets / "test")
        for index in range(2, 20):
            (pets / f"train/dog/{index}.png").unlink()
        for name in ("dog/leak.png", "dog/copy.png", "dog/cat-too.png", "cat/cut.png", "cat/text.jpg", "cat/anim.gif"):
            (pets / "train" / name).unlink()
    elif harm == "all corrupt":
        for path in pets.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])
    else:
        source = tmp_path / "data.tar.gz"
        source.write_text("text")
    with pytest.raises(PipelineError) as error:
        prepare(dataset="image_folder", source=str(source))
    assert isinstance(error.value, DataError)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    experiment = MlflowClient().get_experiment_by_name("tests")
    (run,) = MlflowClient().search_runs([experiment.experiment_id], "tags.`pipeline.stage` = 'prepare'")
    assert run.info.status == "FAILED"
    assert "pipeline.fingerprint" not in run.data.tags
    assert not gold_store.exists(run.info.run_id)

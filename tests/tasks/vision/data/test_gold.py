from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.vision.data import gold as gold_format
from tasks.vision.data.gold import Gold, Split


def split(count: int, prefix: str) -> Split:
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int64) % 2, tuple(f"{prefix}/{i}.png" for i in range(count)))


@pytest.fixture
def gold() -> Gold:
    return Gold(
        train=split(4, "train"),
        validation=split(2, "val"),
        test=split(3, "test"),
        classes=("cat", "dög"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        fingerprint="f" * 64,
        dataset="pets",
    )


def test_what_is_saved_is_loaded(gold: Gold, tmp_path: Path) -> None:
    gold_format.save(gold, tmp_path / "new" / "folder")
    loaded = gold_format.load(tmp_path / "new" / "folder")
    for name, expected in gold.splits.items():
        np.testing.assert_array_equal(loaded.splits[name].images, expected.images)
        np.testing.assert_array_equal(loaded.splits[name].labels, expected.labels)
        assert loaded.splits[name].names == expected.names
    assert replace(loaded, **gold.splits) == gold
    assert loaded.shape == (3, 8, 8)
    assert len(loaded.train) == 4


def test_metadata_of_test_images_are_kept(gold: Gold, tmp_path: Path) -> None:
    columns = {"light": ("sun", "", "lamp"), "camera": ("left", "left", "rücks")}
    gold_format.save(replace(gold, test=replace(gold.test, columns=columns)), tmp_path)
    assert gold_format.load(tmp_path).test.columns == columns
    assert gold_format.load(tmp_path).train.columns == {}


def test_gold_without_metadata_is_as_it_was_before_there_were_any(gold: Gold, tmp_path: Path) -> None:
    gold_format.save(gold, tmp_path)
    assert "columns" not in json.loads((tmp_path / gold_format.DESCRIPTION).read_text())
    assert gold_format.load(tmp_path).test.columns == {}


@pytest.mark.parametrize("columns", [{"light": ["sun"]}, {"light": [1, 2, 3]}, {"light": None}, ["light"], "light"])
def test_metadata_of_other_images_are_refused(gold: Gold, tmp_path: Path, columns: Any) -> None:
    gold_format.save(gold, tmp_path)
    path = tmp_path / gold_format.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"columns": columns}))
    with pytest.raises(DataError, match="cannot be used"):
        gold_format.load(tmp_path)


def test_the_same_gold_makes_the_same_bytes(gold: Gold, tmp_path: Path) -> None:
    for name in "ab":
        gold_format.save(gold, tmp_path / name)
    for file in (gold_format.TENSORS, gold_format.DESCRIPTION):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_user_may_read_it(gold: Gold, tmp_path: Path) -> None:
    gold_format.save(gold, tmp_path)
    assert (tmp_path / gold_format.TENSORS).stat().st_mode & 0o044 == 0o044


def test_a_transposed_view_is_saved_as_it_looks(gold: Gold, tmp_path: Path) -> None:
    view = replace(gold.train, images=gold.train.images.transpose(0, 1, 3, 2))
    gold_format.save(replace(gold, train=view), tmp_path)
    np.testing.assert_array_equal(gold_format.load(tmp_path).train.images, view.images)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ("dog", "cat")}, "sorted"),
        ({"classes": ("cat",)}, "two or more"),
        ({"mean": (0.1,)}, "3 finite numbers"),
        ({"std": (0.4, 0.0, 0.6)}, "must be over 0"),
        ({"mean": (float("nan"), 0.2, 0.3)}, "mean"),
        ({"train": replace(split(4, "t"), labels=np.array([0, 1, 2, 0]))}, "labels outside 0..1"),
        ({"train": replace(split(4, "t"), labels=np.array([0, 1, -1, 0]))}, "labels outside"),
        ({"train": replace(split(4, "t"), names=("a",))}, "1 names"),
        ({"test": Split(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, np.int64), ())}, "0 images"),
        ({"test": replace(split(3, "t"), images=np.zeros((3, 3, 9, 9), np.uint8))}, "(3, 9, 9)"),
        ({"train": replace(split(4, "t"), images=np.zeros((4, 3, 8, 8), np.float32))}, "float32"),
    ],
)
def test_gold_that_does_not_fit_together_is_not_saved(
    gold: Gold, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError) as error:
        gold_format.save(replace(gold, **change), tmp_path)
    assert says in str(error.value)
    assert "run prepare again" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", [gold_format.TENSORS, gold_format.DESCRIPTION])
def test_a_missing_file_is_named(gold: Gold, tmp_path: Path, file: str) -> None:
    gold_format.save(gold, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=file):
        gold_format.load(tmp_path)


@pytest.mark.parametrize("file", [gold_format.TENSORS, gold_format.DESCRIPTION])
def test_a_file_cut_short_is_refused(gold: Gold, tmp_path: Path, file: str) -> None:
    gold_format.save(gold, tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be used"):
        gold_format.load(tmp_path)


@pytest.mark.parametrize("change", [{"format": 99}, {"classes": ["b", "a"]}, {"names": {}}, {"mean": "abc"}])
def test_a_description_of_other_tensors_is_refused(gold: Gold, tmp_path: Path, change: dict[str, Any]) -> None:
    gold_format.save(gold, tmp_path)
    path = tmp_path / gold_format.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="cannot be used"):
        gold_format.load(tmp_path)

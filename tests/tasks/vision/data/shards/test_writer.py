from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.shards.description import DESCRIPTION, HEADER_BYTES
from tasks.vision.data.shards.writer import SplitWriter, save
from tests.small_gold import read, small_gold, small_split

IMAGE = 3 * 8 * 8


@pytest.fixture
def gold() -> Gold:
    return small_gold()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    columns = {"light": ("sun", "", "lamp"), "camera": ("left", "left", "rücks")}
    gold = small_gold(columns, train=10)
    save(gold, tmp_path / "new" / "folder", shard_bytes=3 * IMAGE)
    loaded = read(tmp_path / "new" / "folder")
    for name, expected in gold.splits.items():
        np.testing.assert_array_equal(loaded.splits[name].images, expected.images)
        np.testing.assert_array_equal(loaded.splits[name].labels, expected.labels)
        assert tuple(loaded.splits[name].names) == expected.names
        assert loaded.splits[name].names[-1:] == expected.names[-1:]
        assert loaded.splits[name].columns == expected.columns
    assert replace(loaded, **gold.splits) == gold
    assert loaded.shape == (3, 8, 8)
    assert loaded.train.shards == (0, 3, 6, 9, 10)


def test_a_shard_is_an_array_that_numpy_reads(gold: Gold, tmp_path: Path) -> None:
    save(gold, tmp_path, shard_bytes=3 * IMAGE)
    second = np.load(tmp_path / "train-00001-of-00002.npy", allow_pickle=False)
    np.testing.assert_array_equal(second, gold.train.images[3:])


def test_no_shard_is_larger_than_asked_for_unless_one_image_is(gold: Gold, tmp_path: Path) -> None:
    for most, images in ((2 * IMAGE + 1, 2), (IMAGE // 2, 1)):
        save(gold, tmp_path / str(most), shard_bytes=most)
        sizes = {path.stat().st_size for path in (tmp_path / str(most)).glob("*.npy")}
        assert max(sizes) == HEADER_BYTES + images * IMAGE


def test_the_same_gold_makes_the_same_bytes(gold: Gold, tmp_path: Path) -> None:
    for name in "ab":
        save(gold, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 1 + 2 * 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_user_may_read_it(gold: Gold, tmp_path: Path) -> None:
    save(gold, tmp_path)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tmp_path.iterdir())


def test_a_transposed_view_is_saved_as_it_looks(gold: Gold, tmp_path: Path) -> None:
    view = replace(gold.train, images=gold.train.images[:].transpose(0, 1, 3, 2))
    save(replace(gold, train=view), tmp_path)
    np.testing.assert_array_equal(read(tmp_path).train.images, view.images)


def test_a_finished_shard_may_be_taken_away_while_the_next_is_written(tmp_path: Path) -> None:
    taken = []

    def take(path: Path) -> None:
        taken.append((path.name, np.load(path).shape))
        path.unlink()

    with SplitWriter(tmp_path, "train", 5, (3, 8, 8), shard_bytes=2 * IMAGE, closed=take) as writer:
        for number in range(5):
            writer.add(np.full((3, 8, 8), number, np.uint8), 0, f"{number}.png")
        files = writer.finish(classes=2)
    assert [shape[0] for _, shape in taken] == [2, 2, 1]
    assert files.per_class == (5, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["train-index.safetensors"]


def test_too_few_too_many_and_other_images_are_refused(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 8), np.uint8)
    with SplitWriter(tmp_path, "train", 2, (3, 8, 8)) as writer:
        with pytest.raises(ValueError, match=r"a.png: uint8 \[3, 9, 9\]"):
            writer.add(np.zeros((3, 9, 9), np.uint8), 0, "a.png")
        writer.add(image, 0, "a.png")
        with pytest.raises(ValueError, match="fewer than the 2"):
            writer.finish(2)
        writer.add(image, 0, "b.png")
        with pytest.raises(ValueError, match=r"c.png is one image more than the 2"):
            writer.add(image, 0, "c.png")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ("dog", "cat")}, "sorted"),
        ({"classes": ("cat",)}, "two or more"),
        ({"mean": (0.1,)}, "3 finite numbers"),
        ({"std": (0.4, 0.0, 0.6)}, "must be over 0"),
        ({"mean": (float("nan"), 0.2, 0.3)}, "mean"),
        ({"train": replace(small_split(4, "t"), labels=np.array([0, 1, 2, 0]))}, "labels outside 0..1"),
        ({"train": replace(small_split(4, "t"), labels=np.array([0, 1, -1, 0]))}, "labels outside"),
        ({"train": replace(small_split(4, "t"), names=("a",))}, "1 names"),
        ({"test": Split(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, np.int64), ())}, "0 images"),
        ({"test": replace(small_split(3, "t"), images=np.zeros((3, 3, 9, 9), np.uint8))}, "(3, 9, 9)"),
        ({"test": small_split(3, "t", {"light": ("sun",)})}, "'light' of test must be 3 texts"),
        ({"train": replace(small_split(4, "t"), images=np.zeros((4, 3, 8, 8), np.float32))}, "float32"),
    ],
)
def test_gold_that_does_not_fit_together_is_not_saved(
    gold: Gold, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError) as error:
        save(replace(gold, **change), tmp_path)
    assert says in str(error.value)
    assert "run prepare again" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_description_comes_last(gold: Gold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitWriter, "finish", lambda self, classes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(gold, tmp_path)
    assert not (tmp_path / DESCRIPTION).exists()

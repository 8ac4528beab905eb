"""The sides of the comparison of readers, on a few photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import data
from tasks.vision.data.shards.images import ShardImages

COUNT = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(COUNT):
        file = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((300, 240), 20.0 + number).convert("RGB").save(file)
    return tmp_path / "photos"


def test_gold_on_disk_and_in_memory_is_the_same(photos: Path, tmp_path: Path) -> None:
    assert data.write_shards(photos, tmp_path / "shards") > 0
    disk, memory = (data.open_gold(tmp_path / "shards", on_disk=on_disk) for on_disk in (True, False))
    assert isinstance(disk.train.images, ShardImages)
    assert isinstance(memory.train.images, np.ndarray)
    assert len(disk.train) == COUNT
    np.testing.assert_array_equal(disk.train.images[:], memory.train.images)


@pytest.mark.parametrize("side", ["memory", "shards", "torchvision"])
def test_each_reader_reads_all_images_in_every_epoch(
    side: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_shards(photos, tmp_path / "shards")
    seen = []

    def count(batches: Iterable[Any]) -> float:
        seen.append(sum(len(images) for images, _ in batches))
        return 1.0

    monkeypatch.setattr(data, "_rate", count)
    epoch, _ = data.make_loader(side, photos if side == "torchvision" else tmp_path / "shards")
    assert [epoch(), epoch()] == [1, 1]
    assert seen == [COUNT, COUNT]

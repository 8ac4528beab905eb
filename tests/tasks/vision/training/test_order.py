from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contract.recipe import Recipe
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import read_ahead
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.data.shards.writer import save
from tasks.vision.models.build import build
from tasks.vision.models.classifier import digest
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training import order
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import Replicas
from tests.digits import digits_as_gold
from tests.small_gold import read

IMAGE = 8 * 8
SIZE = 3  # replicas
RECIPES: dict[str, dict[str, object]] = {
    "plain": {},
    "all augmentation": {"auto_augment": "trivial", "mixup": 0.2, "augmentation": 1.0},
    "balanced": {"class_balance": "sampler"},
    "mirrored features": {"finetune": "head", "flip": True},
    "gradual": {"finetune": "gradual", "learning_rate": 0.001},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(digits_as_gold(100, 40), tmp_path, shard_bytes=9 * IMAGE)
    return tmp_path


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 30 images."""
    for module in (order, read_ahead):
        monkeypatch.setattr(module, "WINDOW_BYTES", 30 * IMAGE)


def trained(gold: Gold, changes: dict[str, object]) -> tuple[list[float], str]:
    weights = build("fast_cnn", 10, gold.shape).state_dict() if "finetune" in changes else None
    recipe = Recipe.model_validate({"epochs": 3, "batch_size": 20, "device": "cpu", "log_every": 0} | changes)
    training = Training(recipe, gold, weights)
    ends = [event for event in training.run() if isinstance(event, EpochEnd)]
    return [loss for end in ends for loss in (end.train_loss, end.validation_loss)], digest(training.best_classifier())


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_training_from_disk_has_the_bits_of_training_from_memory(folder: Path, changes: dict[str, object]) -> None:
    disk = read(folder, most_memory=0)
    assert isinstance(disk.train.images, ShardImages)
    torch.manual_seed(0)
    expected = trained(read(folder), changes)
    torch.manual_seed(0)
    assert trained(disk, changes) == expected


@pytest.mark.parametrize("most_memory", [None, 0])
def test_mirrored_images_are_the_plain_ones_mirrored(folder: Path, most_memory: int | None) -> None:
    train = read(folder, most_memory).train
    images = ImageTensor(train.images, train.labels, Preprocessing((0.0,), (1.0,)), torch.device("cpu"))
    plain, mirrored = (torch.cat([pixels for pixels, _ in of.batches(30)]) for of in (images, images.mirrored()))
    assert mirrored.equal(plain.flip(3))
    assert not mirrored.equal(plain)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("changes", [RECIPES["plain"], RECIPES["balanced"]], ids=["plain", "balanced"])
def test_so_it_has_where_images_are_shuffled_in_windows(folder: Path, changes: dict[str, object]) -> None:
    assert trained(read(folder, most_memory=0), changes) == trained(read(folder), changes)


def test_gold_that_is_not_larger_than_a_window_is_shuffled_as_before_there_were_shards(folder: Path) -> None:
    train = read(folder).train
    torch.manual_seed(3)
    found = order.epoch_order(train, torch.from_numpy(train.labels), balanced=False)
    torch.manual_seed(3)
    assert found.equal(torch.randperm(100))


@pytest.mark.usefixtures("narrow")
def test_windows_hold_every_image_once_and_few_shards_at_a_time(folder: Path) -> None:
    train = read(folder, most_memory=0).train
    torch.manual_seed(0)
    found = order.epoch_order(train, torch.from_numpy(train.labels), balanced=False)
    assert found.sort().values.equal(torch.arange(100))
    shard_of = np.searchsorted(train.shards, found.numpy(), side="right") - 1
    windows = [set(part.tolist()) for part in np.split(shard_of, np.cumsum([27, 27, 27])[:3])]
    assert max(map(len, windows)) <= 4
    first = found[:20]
    assert not first.sort().values.equal(first)
    torch.manual_seed(1)
    assert not found.equal(order.epoch_order(train, torch.from_numpy(train.labels), balanced=False))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("balanced", [False, True])
def test_a_replica_needs_few_of_the_shards_of_a_window(folder: Path, balanced: bool) -> None:
    """What all of them fetch in an epoch: with shares in any order, each would need every shard."""
    train = read(folder, most_memory=0).train
    shards = len(train.shards) - 1
    torch.manual_seed(0)
    labels = torch.from_numpy(train.labels)
    batches = order.epoch_batches(train, labels, 4, balanced=balanced, one_size=False)
    fetched = 0
    for rank in range(SIZE):
        own = torch.cat([Replicas(rank, SIZE).share(batch) for batch in batches])
        fetched += len(np.unique(np.searchsorted(train.shards, own.numpy(), side="right")))
    assert shards <= fetched <= 2 * shards < SIZE * shards
    everything = torch.cat(batches)
    assert balanced or everything.sort().values.equal(torch.arange(100))
    assert sorted(map(len, batches)) == [25, 25, 25, 25]


@pytest.mark.usefixtures("narrow")
def test_a_replica_validates_on_shards_of_its_own(folder: Path) -> None:
    """Its part of all images is read in one piece, whatever the size of batches."""
    for split in (read(folder, most_memory=0).train, read(folder).train):
        seen = []
        for rank in range(SIZE):
            replicas = Replicas(rank, SIZE)
            preprocessing = Preprocessing((0.0,), (1.0,))
            images = ImageTensor(split.images, split.labels, preprocessing, torch.device("cpu"), replicas=replicas)
            batches = list(images.batches(10))
            assert max(len(labels) for _, labels in batches) <= 10
            seen.append(torch.cat([labels for _, labels in batches]))
        assert torch.cat(seen).equal(torch.from_numpy(split.labels))


def test_images_are_read_while_others_are_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next batches are read before they are asked for, and not many of them."""
    asked = 0
    real = os.preadv

    def preadv(*args: object) -> int:
        nonlocal asked
        asked += 1
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("os.preadv", preadv)
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 0)
    batches = [np.array([number]) for number in range(100)]
    reading = read_ahead.read_ahead(read(folder, most_memory=0).train.images, batches)  # type: ignore[arg-type]
    next(reading)
    reading.close()  # waits for those that were begun
    assert 1 <= asked <= 1 + read_ahead.FEWEST

"""Near-duplicates among pictures that are drawn here: smooth random fields, which have edges in all places."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from tasks.vision.data import near_duplicates
from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.near_duplicates import COLUMNS, Pair

SIDE = 48
Picture = Image.Image


def pictures(count: int, seed: int = 0) -> list[Picture]:
    generator = np.random.default_rng(seed)
    fields = generator.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [Image.fromarray(field).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for field in fields]


def pixels(images: Sequence[Picture]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)


def gold_of(train: NDArray[np.uint8], validation: NDArray[np.uint8], test: NDArray[np.uint8], classes: int = 2) -> Gold:
    def split(name: str, images: NDArray[np.uint8]) -> Split:
        labels = np.arange(len(images), dtype=np.int64) % classes
        return Split(images, labels, tuple(f"{name}/{index}.png" for index in range(len(images))))

    channels = train.shape[1]
    names = tuple(f"class {index}" for index in range(classes))
    splits = split("train", train), split("validation", validation), split("test", test)
    return Gold(*splits, names, (0.5,) * channels, (0.2,) * channels, "f" * 64, "fields")


def compressed(image: Picture) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def mirrored(image: Picture) -> Picture:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES = {
    "compressed": compressed,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped": lambda image: image.crop((1, 1, SIDE - 1, SIDE - 1)).resize((SIDE, SIDE)),
    "smaller and back": lambda image: image.resize((30, 30)).resize((SIDE, SIDE)),
    "mirrored": mirrored,
    "mirrored and compressed": lambda image: compressed(mirrored(image)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_changed_copy_is_found_and_nothing_else(change: str, split: str) -> None:
    train, validation, test = pictures(200, 1), pictures(40, 2), pictures(50, 3)
    copied = {"train": train, "validation": validation}[split]
    copied[17] = CHANGES[change](test[5])
    (pair,) = near_duplicates.find(gold_of(pixels(train), pixels(validation), pixels(test)))
    assert (pair.test, pair.split, pair.other) == (5, split, 17)
    assert pair.mirrored == change.startswith("mirrored")
    assert 0 <= pair.distance <= 10
    assert 0.75 <= pair.similarity <= 1.001


def test_pictures_of_other_things_are_no_near_duplicates() -> None:
    assert near_duplicates.find(gold_of(*(pixels(pictures(count, count)) for count in (800, 100, 200)))) == []


def test_the_nearest_come_first_and_one_for_each_test_image_is_shown() -> None:
    train, test = pictures(60, 1), pictures(30, 2)
    train[3], train[9], train[20] = test[4].rotate(2), compressed(test[4]), compressed(test[7])
    pairs = near_duplicates.find(gold_of(pixels(train), pixels(pictures(9, 3)), pixels(test)))
    assert {(pair.test, pair.other) for pair in pairs} == {(4, 3), (4, 9), (7, 20)}
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)
    assert [pair.other for pair in near_duplicates.nearest(pairs) if pair.test == 4] == [9]


@pytest.mark.parametrize("side", [32, 64])
def test_digits_that_look_alike_are_no_near_duplicates(side: int) -> None:
    digits = load_digits()
    data = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(one).resize((side, side))) for one in data])[:, None]
    gold = gold_of(large[:1200], large[1200:1400], large[1400:], 10)
    gold.train.labels[:], gold.test.labels[:] = digits.target[:1200], digits.target[1400:]
    assert near_duplicates.find(gold) == []


def test_skies_and_blank_images_are_no_near_duplicates() -> None:
    generator = np.random.default_rng(0)
    top, bottom = generator.uniform(100, 255, (2, 400, 1, 1))
    down = np.linspace(0, 1, SIDE)[None, :, None]
    skies = top * (1 - down) + bottom * down + generator.normal(0, 2, (400, SIDE, SIDE))
    skies[::4] = generator.integers(0, 255, (100, 1, 1))
    images = np.repeat(skies.clip(0, 255).astype(np.uint8)[:, None], 3, axis=1)
    assert near_duplicates.find(gold_of(images[:300], images[300:320], images[320:])) == []


@pytest.mark.filterwarnings("error")  # of a division by zero
def test_the_frames_of_a_film_are_near_duplicates_though_a_whole_class_is_alike() -> None:
    scenes = pictures(2, 1)
    generator = np.random.default_rng(0)
    frames = np.repeat(pixels(scenes)[None], 60, axis=0).reshape(120, 3, SIDE, SIDE)
    frames = (frames + generator.normal(0, 3, frames.shape)).clip(0, 255).astype(np.uint8)
    pairs = near_duplicates.find(gold_of(frames[:80], frames[80:90], frames[90:]))
    assert len(near_duplicates.nearest(pairs)) == 30
    assert len(pairs) <= 30 * 2 * near_duplicates.CANDIDATES


def test_images_of_under_32_pixels_are_not_compared() -> None:
    images = pixels([image.resize((28, 28)) for image in pictures(40)])
    assert near_duplicates.find(gold_of(images, images, images)) == []


def test_many_images_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = pictures(90, 1), pictures(40, 2)
    train[70] = compressed(test[33])
    gold = gold_of(pixels(train), pixels(pictures(9, 3)), pixels(test))
    whole = near_duplicates.find(gold)
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(near_duplicates, "BATCH_BYTES", 7 * 3 * SIDE**2)
    assert near_duplicates.find(gold) == whole
    assert [(pair.test, pair.other) for pair in whole] == [(33, 70)]


def test_the_table_names_both_images_with_their_classes(tmp_path: Path) -> None:
    images = pixels(pictures(4))
    pair = Pair(test=1, split="validation", other=2, distance=4, similarity=0.91234, mirrored=True)
    near_duplicates.write([pair], gold_of(images, images, images), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    values = ("test/1.png", "class 1", "validation/2.png", "validation", "class 0", "4", "0.912", "yes")
    assert [tuple(row) for row in rows] == [COLUMNS, values]

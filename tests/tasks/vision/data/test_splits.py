from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.vision.data import splits
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.gold import Gold
from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.records import Entry, Record
from tasks.vision.data.splits import split, statistics

SHAPING = Shaping("pets", 1, 8, 0.2, 0.25, seed=0)
KEY = "f" * 64
FILE = PixelFile((1, 8, 8))


def records(label: str, count: int, part: str = "train") -> list[Record]:
    def one(index: int) -> Record:
        name = f"{part}/{label}/{index:03d}"
        pixels = np.full((1, 8, 8), index, np.uint8)
        return Record(Entry(name, part, label), hashlib.sha256(name.encode()).hexdigest(), pixels=FILE.add(pixels))

    return [one(index) for index in range(count)]


def made(*parts: list[Record], shaping: Shaping = SHAPING) -> Gold:
    everything = sorted(chain.from_iterable(parts), key=lambda record: record.entry.name)
    given = {r.entry.split for r in everything}
    classes = sorted({r.entry.label for r in everything})
    return split(everything, classes, shaping, KEY, has_test="test" in given, has_validation="validation" in given)


def test_each_class_is_split_by_the_fractions() -> None:
    gold = made(records("ant", 40), records("bee", 20))
    counts = {name: Counter(part.labels.tolist()) for name, part in gold.splits.items()}
    assert counts == {"train": {0: 22, 1: 11}, "validation": {0: 8, 1: 4}, "test": {0: 10, 1: 5}}


def test_no_image_is_in_two_splits_and_none_is_lost() -> None:
    gold = made(records("ant", 40), records("bee", 20))
    names = [name for part in gold.splits.values() for name in part.names]
    assert len(names) == len(set(names)) == 60


def test_images_labels_and_names_belong_together() -> None:
    gold = made(records("ant", 40), records("bee", 20))
    for part in gold.splits.values():
        for image, label, name in zip(part.images[:], part.labels, part.names, strict=True):
            assert (int(image[0, 0, 0]), gold.classes[label]) == (int(name[-3:]), name.split("/")[1])


def test_a_test_set_of_the_source_is_kept_as_it_is() -> None:
    gold = made(records("ant", 10), records("bee", 10), records("ant", 3, "test"), records("bee", 1, "test"))
    assert gold.test.names == ("test/ant/000", "test/ant/001", "test/ant/002", "test/bee/000")
    assert (len(gold.train), len(gold.validation)) == (16, 4)


def test_a_validation_set_of_the_source_is_kept_as_it_is() -> None:
    held = records("ant", 3, "validation"), records("bee", 1, "validation")
    gold = made(records("ant", 20), records("bee", 12), *held)
    assert gold.validation.names == tuple(record.entry.name for part in held for record in part)
    assert (len(gold.train), len(gold.test)) == (24, 8)  # only a test set is split off
    both = made(records("ant", 20), records("bee", 12), *held, records("ant", 1, "test"), records("bee", 1, "test"))
    assert (len(both.train), len(both.validation), len(both.test)) == (32, 4, 2)


def test_the_test_images_keep_their_metadata() -> None:
    parts = [*records("ant", 10), *records("bee", 10)]
    known = [replace(r, entry=replace(r.entry, metadata=(r.entry.name[-1], r.entry.label))) for r in parts]
    gold = split(known, ["ant", "bee"], SHAPING, KEY, has_test=False, columns=["last", "what"])
    assert gold.test.columns == {
        "last": tuple(name[-1] for name in gold.test.names),
        "what": tuple(gold.classes[label] for label in gold.test.labels),
    }
    assert (gold.train.columns, gold.validation.columns) == ({}, {})


def test_a_seed_gives_the_same_splits_and_another_seed_others() -> None:
    parts = records("ant", 40), records("bee", 20)
    again, other = made(*parts), made(*parts, shaping=replace(SHAPING, seed=1))
    assert made(*parts).validation.names == again.validation.names
    assert other.validation.names != again.validation.names


def test_most_images_keep_their_split_when_one_is_added() -> None:
    before = made(records("ant", 200), records("bee", 20))
    after = made(records("ant", 201), records("bee", 20))
    assert len(set(before.test.names) - set(after.test.names)) <= 1


def test_where_only_some_shards_are_read_at_a_time_each_has_images_of_all_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names begin with the class: in their order, a training would see one class for a while, then the next."""
    many = records("ant", 250), records("bee", 250)
    in_order = made(*many)
    monkeypatch.setattr(splits, "WINDOW_BYTES", in_order.train.images.nbytes - 1)
    mixed = made(*many)
    assert list(in_order.train.names) == sorted(in_order.train.names) == sorted(mixed.train.names)
    tenth = len(mixed.train) // 10
    for start in range(0, 10 * tenth, tenth):
        assert 0.2 < mixed.train.labels[start : start + tenth].mean() < 0.8
    assert mixed.validation.names == in_order.validation.names
    assert mixed.test.names == in_order.test.names


def test_three_images_of_a_class_are_enough() -> None:
    gold = made(records("ant", 3), records("bee", 3))
    assert [len(part) for part in gold.splits.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((records("ant", 9), records("bee", 2)), "class 'bee' has 2 usable training and 0 test images"),
        ((records("ant", 9), records("bee", 1), records("ant", 1, "test"), records("bee", 1, "test")), "'bee' has 1"),
        ((records("ant", 9), records("bee", 9), records("ant", 1, "test")), "'bee' has 9 usable training and 0 test"),
        (
            (records("ant", 9), records("bee", 9), records("ant", 1, "validation")),
            "'bee' has 9 usable training and 0 val",
        ),
    ],
)
def test_too_few_images_of_a_class_are_refused(parts: tuple[list[Record], ...], says: str) -> None:
    with pytest.raises(DataError) as error:
        made(*parts)
    assert says in str(error.value)
    assert "add images" in str(error.value)


def test_a_class_whose_images_were_all_removed_is_refused() -> None:
    with pytest.raises(DataError, match="class 'cat' has 0 usable training"):
        split(records("ant", 9), ["ant", "cat"], SHAPING, KEY, has_test=False)
    with pytest.raises(DataError, match="class 'ant' has 0 usable training"):
        split([], ["ant", "cat"], SHAPING, KEY, has_test=False)


def test_a_test_set_of_which_nothing_is_left_is_not_made_up_from_train() -> None:
    with pytest.raises(DataError, match="9 usable training and 0 test images"):
        split(records("ant", 9) + records("bee", 9), ["ant", "bee"], SHAPING, KEY, has_test=True)


def test_statistics_equal_numpy_s() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 3, 8, 8), dtype=np.uint8)
    pixels[:, 1] //= 3
    mean, std = statistics(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), rtol=1e-12)


def test_a_channel_without_contrast_can_still_be_divided_by() -> None:
    assert statistics(np.full((4, 1, 8, 8), 51, np.uint8)) == ((0.2,), (1 / 255,))

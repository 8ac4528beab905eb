from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.vision.data import fingerprint as module
from tasks.vision.data.contents import Contents
from tasks.vision.data.fingerprint import Shaping, fingerprint
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Listing

SHAPING = Shaping("pets", 3, 32, 0.15, 0.2, 0)
NAMES = ["train/a/1.png", "train/b/1.png"]


def arranged(*names: str) -> Listing:
    return arrange(Contents("pets", dict.fromkeys(names, 1)))


@pytest.fixture
def listing() -> Listing:
    return arranged(*NAMES)


def test_the_same_gives_the_same(listing: Listing) -> None:
    assert fingerprint("d", SHAPING, listing) == fingerprint("d", replace(SHAPING), listing)
    assert len(fingerprint("d", SHAPING, listing)) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "x"},
        {"channels": 1},
        {"size": 64},
        {"validation_fraction": 0.1},
        {"test_fraction": 0.1},
        {"seed": 1},
    ],
)
def test_every_setting_that_shapes_gold_counts(listing: Listing, change: dict[str, Any]) -> None:
    assert fingerprint("d", replace(SHAPING, **change), listing) != fingerprint("d", SHAPING, listing)


def test_corrections_count_and_without_any_nothing_changes(listing: Listing) -> None:
    without = fingerprint("d", SHAPING, listing)
    assert fingerprint("d", SHAPING, listing, "") == without
    assert len({without, *(fingerprint("d", SHAPING, listing, digit * 64) for digit in "ab")}) == 3


def test_the_content_counts(listing: Listing) -> None:
    assert fingerprint("other", SHAPING, listing) != fingerprint("d", SHAPING, listing)


def test_the_test_fraction_does_not_count_where_the_source_has_a_test_set() -> None:
    listing = arranged(*NAMES, "test/a/1.png", "test/b/1.png")
    assert fingerprint("d", replace(SHAPING, test_fraction=0.3), listing) == fingerprint("d", SHAPING, listing)


@pytest.mark.parametrize(
    ("dataset", "before"),
    [
        ("digits", "e575dd8ff6258b77a18018313d633217d9db4b5aaaa9c23b6c1aa0eb53c2d8b7"),
        ("cifar10", "5dfb13b726cdbf3b5b1a364a80e7db34725ec3c151a8afaddf1a18216b6832a8"),
    ],
)
def test_gold_of_arrays_is_that_of_the_releases_before(dataset: str, before: str, listing: Listing) -> None:
    assert fingerprint("d", replace(SHAPING, dataset=dataset), listing) == before


def test_gold_of_files_is_made_again_when_they_are_decoded_in_another_way(
    listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "f223ab3da324b272fff71f7d45181ae3f974598e647af8ba462d2bc5d6bae0e7"  # pixels without colour profiles
    shaping = replace(SHAPING, dataset="image_folder")
    today = fingerprint("d", shaping, listing)
    monkeypatch.setattr(module, "DECODER_VERSION", 999)
    assert len({before, today, fingerprint("d", shaping, listing)}) == 3


def test_the_validation_fraction_does_not_count_where_the_source_has_a_validation_set() -> None:
    listing = arranged(*NAMES, "val/a/1.png", "val/b/1.png")
    assert fingerprint("d", replace(SHAPING, validation_fraction=0.3), listing) == fingerprint("d", SHAPING, listing)


def test_which_files_of_an_archive_are_images_counts(listing: Listing) -> None:
    prints = {
        fingerprint("d", SHAPING, found)
        for found in (listing, arranged(*NAMES, "train/a/2.webp"), arranged(*NAMES, "val/a/1.png", "val/b/1.png"))
    }
    assert len(prints) == 3


def test_other_layers_give_another(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("d", SHAPING, listing)
    monkeypatch.setattr(module, "LAYERS_VERSION", 999)
    assert fingerprint("d", SHAPING, listing) != before

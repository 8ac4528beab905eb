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
FIRST_RELEASE = ["3297b0888f1ad40a", "2e97789f0db84d42"]  # without and with metadata, as it printed them


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


def test_the_content_counts(listing: Listing) -> None:
    assert fingerprint("other", SHAPING, listing) != fingerprint("d", SHAPING, listing)


def test_the_test_fraction_does_not_count_where_the_source_has_a_test_set() -> None:
    listing = arranged(*NAMES, "test/a/1.png", "test/b/1.png")
    assert fingerprint("d", replace(SHAPING, test_fraction=0.3), listing) == fingerprint("d", SHAPING, listing)


def test_the_validation_fraction_does_not_count_where_the_source_has_a_validation_set() -> None:
    listing = arranged(*NAMES, "val/a/1.png", "val/b/1.png")
    assert fingerprint("d", replace(SHAPING, validation_fraction=0.3), listing) == fingerprint("d", SHAPING, listing)


def test_what_an_archive_holds_counts_where_earlier_releases_found_other_images(listing: Listing) -> None:
    prints = {
        fingerprint("d", SHAPING, found)
        for found in (listing, arranged(*NAMES, "train/a/2.webp"), arranged(*NAMES, "val/a/1.png", "val/b/1.png"))
    }
    assert len(prints) == 3


def test_the_fingerprints_of_the_first_release_are_the_same_today(listing: Listing) -> None:
    columns = replace(listing, columns=("camera",))
    assert [fingerprint("d", SHAPING, one)[:16] for one in (listing, columns)] == FIRST_RELEASE


def test_other_layers_give_another(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("d", SHAPING, listing)
    monkeypatch.setattr(module, "LAYERS_VERSION", 999)
    assert fingerprint("d", SHAPING, listing) != before

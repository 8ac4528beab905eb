"""Labels in file names."""

from __future__ import annotations

import pytest

from tasks.errors import DataError
from tasks.vision.data import name_pattern
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Listing, Reason

NAMES = ["images/big_cat_1.jpg", "images/big_cat_2.jpg", "images/dog_1.jpg", "images/trimap.png", "list.txt"]


def listed(pattern: str, names: list[str] = NAMES) -> Listing:
    return arrange(Contents("pets", dict.fromkeys(names, 7)), LayoutOptions(label_pattern=pattern))


def test_the_group_is_the_class() -> None:
    listing = listed(r"(?P<label>.+)_\d+")
    assert {entry.label for entry in listing.entries.values()} == {"big_cat", "dog"}
    assert {r.name: r.reason for r in listing.removals} == {
        "images/trimap.png": Reason.NO_LABEL,
        "list.txt": Reason.OUTSIDE,
    }


def test_folders_of_splits_count() -> None:
    names = [f"{split}/{label}.{index}.jpg" for split in ("train", "val") for label in ("cat", "dog") for index in "12"]
    listing = listed(r"^(?P<label>cat|dog)\.", names)
    assert (listing.has_validation, listing.classes) == (True, ("cat", "dog"))


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"fits none of 4 file names of pets, such as 'images/big_cat_1.jpg'; correct"):
        listed(r"(?P<label>x)$")


def test_a_pattern_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_pattern, "SECONDS", 1.0)
    with pytest.raises(DataError, match=r"takes over 1 s for 1 file names; remove repetitions inside repetitions"):
        name_pattern.labels(["a" * 200 + "!"], r"(?P<label>(a+)+)$")


def test_names_in_any_script_and_with_any_characters_are_matched() -> None:
    names = ["고양이_1.jpg", "a\nb_2.jpg", '"x"_3.jpg']
    assert name_pattern.labels(names, r"(?s)(?P<label>.+)_\d") == ["고양이", "a\nb", '"x"']
    assert name_pattern.labels([], r"(?P<label>x)") == []

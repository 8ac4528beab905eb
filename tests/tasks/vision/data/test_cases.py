"""Whole data sets as people have them, each with the value that is right; see the names of the files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import bronze, images, losses, silver
from tasks.vision.data.contents import LayoutOptions
from tasks.vision.data.file_source import FileSource
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.records import Reason
from tasks.vision.data.sources import open_source

CASES = Path(__file__).parent / "cases"
SHAPING = Shaping("image_folder", 3, 32, 0.15, 0.2, 0)
LIMIT = 0.25
# The images by split, and the classes.
LISTED = {
    "layout_classroot_caltech101": ({"train": 18}, "BACKGROUND_Google Faces_easy accordion"),
    "layout_classroot_flowers": ({"train": 12}, "daisy roses"),
    "layout_classroot_petimages": ({"train": 26}, "Cat Dog"),
    "layout_train_val_imagenette": ({"train": 12, "validation": 12}, "n01440764 n02102040"),
    "layout_train_valid_test_roboflow": ({"train": 12, "validation": 12, "test": 12}, "Cat Dog"),
    "layout_train_val_test_chestxray": ({"train": 12, "validation": 12, "test": 12}, "NORMAL PNEUMONIA"),
    "layout_tinyimagenet": ({"train": 12}, "n01443537 n01629819"),
    "layout_Train_Test_upper": ({"train": 12, "test": 12}, "a b"),
    "layout_test_unknown_keras": ({"train": 12}, "cat dog"),
    "layout_hf_metadata_label": ({"train": 12}, "cat dog"),
    "layout_kaggle_labels_csv": ({"train": 12}, "boston_bull dingo"),
    "silent_90percent_webp": ({"train": 80}, "cat dog"),
    "webp_named_jpg_40percent": ({"train": 20}, "cat dog"),
    "only_bmp": ({"train": 12}, "a b"),
    "zip_infozip": ({"train": 12}, "고양이 🐶_dog"),
    "zip_utf8noflag": ({"train": 12}, "café 고양이"),
    "zip_backslash": ({"train": 12}, "cat dog"),
    "zip_split": ({"train": 12}, "cat dog"),
    "tar_hardlink": ({"train": 13}, "cat dog"),
    "tar_hard_hlink": ({"train": 13}, "cat dog"),
    "nfc_nfd_classes": ({"train": 10, "test": 6}, "café thé"),
}
# What is left out once the images are read; none of the others has any.
LEFT_OUT = {
    "layout_classroot_flowers": {Reason.OUTSIDE: 1},
    "layout_classroot_petimages": {Reason.OUTSIDE: 2, Reason.UNREADABLE: 2},
    "layout_train_val_imagenette": {Reason.OUTSIDE: 1},
    "layout_train_valid_test_roboflow": {Reason.OUTSIDE: 2},
    "layout_train_val_test_chestxray": {Reason.COPY: 36},
    "layout_tinyimagenet": {Reason.OUTSIDE: 2, Reason.UNLABELLED: 2, Reason.UNSUPPORTED: 2},
    "layout_test_unknown_keras": {Reason.UNLABELLED: 5},
    "tar_hardlink": {Reason.DUPLICATE: 1},
    "tar_hard_hlink": {Reason.DUPLICATE: 1},
}


def case(name: str) -> str:
    (path,) = CASES.glob(f"{name}.*")
    return str(path)


def listed(source: FileSource) -> tuple[dict[str, int], list[str]]:
    listing = source.listing
    return Counter(entry.split for entry in listing.entries.values()), list(listing.classes)


@pytest.mark.parametrize("name", LISTED)
def test_every_case_is_understood(name: str, tmp_path: Path) -> None:
    counts, classes = LISTED[name]
    with open_source("image_folder", case(name), tmp_path) as source:
        assert listed(source) == (counts, [word.replace("_dog", " dog") for word in classes.split(" ")])
        losses.require_few(source.listing, source.listing.removals, LIMIT, name)


@pytest.mark.parametrize("name", LISTED)
def test_every_case_gives_its_images(name: str, tmp_path: Path) -> None:
    with open_source("image_folder", case(name), tmp_path) as source:
        kept, removals = silver.clean(bronze.read(source, SHAPING, workers=1))
        left_out = [*source.listing.removals, *removals]
        losses.require_few(source.listing, left_out, LIMIT, name)
    expected = LEFT_OUT.get(name, {})
    assert Counter(removal.reason for removal in left_out) == expected
    lost = sum(count for reason, count in expected.items() if reason in (Reason.UNREADABLE, Reason.DUPLICATE))
    assert len(kept) == sum(LISTED[name][0].values()) - lost


@pytest.mark.parametrize(
    ("name", "reading", "encoding", "classes"),
    [
        ("zip_gbk", "'train/猫' in gb18030", "gbk", ("狗", "猫")),
        ("zip_latin1", "'train/café' in cp1252", "latin-1", ("café", "garçon")),
    ],
)
def test_names_in_an_unknown_encoding_are_asked_for(
    name: str, reading: str, encoding: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        open_source("image_folder", case(name), tmp_path) as source,
        pytest.raises(DataError, match="set name_encoding: ") as error,
    ):
        source.listing  # noqa: B018  # listing is what fails
    assert reading in str(error.value)
    options = LayoutOptions(name_encoding=encoding)
    with open_source("image_folder", case(name), tmp_path, None, options) as source:
        assert source.listing.classes == classes
        assert len(bronze.read(source, SHAPING, workers=1)) == 12


def test_where_most_files_cannot_be_decoded_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes) -> Image.Image:
        if not data.startswith(b"\xff\xd8"):
            raise DataError("not a JPEG")
        return opened(data)

    opened = images.open_image
    monkeypatch.setattr(images, "open_image", refuse)
    with open_source("image_folder", case("silent_90percent_webp"), tmp_path) as source:
        _, removals = silver.clean(bronze.read(source, SHAPING, workers=1))
        with pytest.raises(DataError, match="72 of 80 files of pets would be left out, over the limit of 25%: 72 un"):
            losses.require_few(source.listing, removals, LIMIT, "pets")

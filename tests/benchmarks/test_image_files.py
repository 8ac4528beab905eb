"""The files that benchmarks measure with."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_files import class_folders, make_photos, photo


def encoded(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (colour, 90, 40)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three images a class for training and one for the test, of two classes; and files that are no images."""
    path = tmp_path / "set.tar.gz"
    names = [f"set/train/{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)]
    names += ["set/test/cat/0.jpg", "set/test/dog/0.jpg", "README", "set/../train/../x.jpg"]
    with tarfile.open(path, "w:gz") as opened:
        for number, name in enumerate(names):
            info, data = tarfile.TarInfo(name), encoded(10 * number)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


def test_so_many_images_of_each_class_are_unpacked(archive: Path, tmp_path: Path) -> None:
    folder = class_folders(archive, tmp_path / "some", {"train": 2, "test": 1})
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert found == [
        *("test/cat/0.jpg", "test/dog/0.jpg"),
        *(f"train/{name}/{number}.jpg" for name in ("cat", "dog") for number in (0, 1)),
    ]
    assert not [*tmp_path.glob("*.jpg")]


def test_splits_that_are_not_asked_for_are_left_out(archive: Path, tmp_path: Path) -> None:
    assert not (class_folders(archive, tmp_path / "some", {"train": 1}) / "test").exists()


def test_too_few_images_are_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has not 4 images in train/ .* smaller --images"):
        class_folders(archive, tmp_path / "some", {"train": 4})


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"missing\.tar is not a file; give CIFAR-10"):
        class_folders(tmp_path / "missing.tar", tmp_path, {"train": 1})


def test_photos_are_as_many_as_asked_for_and_the_same_every_time(archive: Path, tmp_path: Path) -> None:
    first, second = (make_photos(archive, tmp_path / name, 5) for name in ("a", "b"))
    photos = {path.relative_to(first): path.read_bytes() for path in first.glob("*/*.jpg")}
    assert len(photos) == 5
    assert len(set(photos.values())) == 5
    assert {path.parts[0] for path in photos} == {"cat", "dog"}
    assert {path.relative_to(second): path.read_bytes() for path in second.glob("*/*.jpg")} == photos


def test_a_photo_has_the_size_and_grain_of_one() -> None:
    data = photo(encoded(100), seed=1)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (500, 375))
        assert np.asarray(image.convert("L"), dtype=float).std() > 3
    assert len(data) > 20_000

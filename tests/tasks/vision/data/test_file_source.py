from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data.file_source import open_files
from tasks.vision.data.sources import Source, open_source


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for index, name in enumerate(["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "notes.txt"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(path, "PNG")
    return folder


def digest(source: str, tmp_path: Path) -> str:
    with open_source("image_folder", source, tmp_path) as opened:
        return opened.digest()


def pack(folder: Path, path: Path) -> str:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname="pets")
    return str(path)


def test_an_archive_with_a_top_folder_lists_as_its_folder_does(pets: Path, tmp_path: Path) -> None:
    def listed(source: Source) -> object:
        return sorted((entry.name, entry.label) for entry in source.listing.entries.values()), source.listing.classes

    with (
        open_source("image_folder", str(pets), tmp_path) as folder,
        open_source("image_folder", pack(pets, tmp_path / "pets.tgz"), tmp_path) as archive,
    ):
        assert listed(folder) == listed(archive)


def test_a_copy_elsewhere_has_the_same_digest(pets: Path, tmp_path: Path) -> None:
    packed = pack(pets, tmp_path / "pets.tar.gz")
    before = digest(str(pets), tmp_path), digest(packed, tmp_path)
    shutil.copytree(pets, tmp_path / "elsewhere" / "v2")
    shutil.copy(packed, tmp_path / "other-name")
    assert (digest(str(tmp_path / "elsewhere"), tmp_path), digest(str(tmp_path / "other-name"), tmp_path)) == before


def test_a_file_that_is_no_image_of_the_set_does_not_change_the_digest(pets: Path, tmp_path: Path) -> None:
    before = digest(str(pets), tmp_path)
    (pets / "notes.txt").write_text("other notes")
    assert digest(str(pets), tmp_path) == before


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "relabelled"])
def test_every_change_of_an_image_changes_the_digest(pets: Path, tmp_path: Path, change: str) -> None:
    before = digest(str(pets), tmp_path)
    image = pets / "train/cat/1.png"
    if change == "edited":
        image.write_bytes(image.read_bytes() + b"x")
    elif change == "renamed":
        image.rename(pets / "train/cat/3.png")
    elif change == "added":
        shutil.copy(image, pets / "train/cat/3.png")
    else:
        image.rename(pets / "train/dog/3.png")
    assert digest(str(pets), tmp_path) != before


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with (
        open_source("image_folder", str(tmp_path / "empty"), tmp_path) as source,
        pytest.raises(DataError, match="empty"),
    ):
        source.listing  # noqa: B018  # listing is what fails


def test_an_empty_tar_is_refused(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "x.tar", "w").close()
    with (
        open_source("image_folder", str(tmp_path / "x.tar"), tmp_path) as source,
        pytest.raises(DataError, match="is empty"),
    ):
        source.listing  # noqa: B018  # listing is what fails


def write(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.mark.parametrize(
    ("sides", "largest", "side"),
    [
        ([(20, 30), (40, 24), (300, 200)], 224, 24),  # the median of the shorter sides
        ([(300, 400), (500, 375), (320, 280)], 224, 224),
        ([(300, 400)] * 3, 64, 64),
    ],
)
def test_images_keep_their_size_up_to_the_largest(
    tmp_path: Path, sides: list[tuple[int, int]], largest: int, side: int
) -> None:
    folder = tmp_path / "pets"
    for number, size in enumerate(sides):
        for split, label in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
            write(folder / split / label / f"{number}.png", size)
    (folder / "train" / "cat" / "0-damaged.png").write_bytes(b"\x89PNG")
    with open_files("pets", str(folder), largest, tmp_path) as source:
        assert source.side == side


def test_many_images_are_made_smaller_where_nobody_asks_for_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pets"
    for number in range(2):
        for label in ("cat", "dog"):
            write(folder / "train" / label / f"{number}.png", (300, 300))
    monkeypatch.setattr("tasks.vision.data.file_source.UNASKED_BYTES", 4 * 3 * 100 * 100)
    with open_files("pets", str(folder), 224, tmp_path) as source:
        assert source.side == 96

from __future__ import annotations

import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data.contents import Contents
from tasks.vision.data.fingerprint import Shaping, fingerprint
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Listing
from tasks.vision.data.sources import open_source

NAMES = ["train/cat/1.png", "train/dog/1.png", "test/cat/9.png", "test/dog/9.png"]
TEST = "test/metadata.csv"
SHAPING = Shaping("image_folder", 3, 32, 0.15, 0.2, 0)


def arranged(names: list[str], sheets: dict[str, bytes]) -> Listing:
    return arrange(Contents("pets", dict.fromkeys([*names, *sheets], 1), sheets=sheets))


def listed(top: str = "", **sheets: str | bytes) -> Listing:
    """Arrange the images with metadata files: `root`, `train` or `test`."""
    files = {
        f"{top}{'' if place == 'root' else f'{place}/'}metadata.csv": text.encode() if isinstance(text, str) else text
        for place, text in sheets.items()
    }
    return arranged([f"{top}{name}" for name in NAMES], files)


def values(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.metadata for entry in listing.entries.values()}


@pytest.mark.parametrize(
    ("place", "prefix"), [("root", "test/"), ("test", ""), ("root", "./test//")], ids=["root", "test", "not plain"]
)
def test_a_path_is_relative_to_the_folder_of_the_file(place: str, prefix: str) -> None:
    listing = listed(**{place: f"file_name,camera\n{prefix}cat/9.png,left\n{prefix}dog/9.png,right\n"})
    assert listing.columns == ("camera",)
    assert values(listing) == {
        "train/cat/1.png": ("",),
        "train/dog/1.png": ("",),
        "test/cat/9.png": ("left",),
        "test/dog/9.png": ("right",),
    }
    assert listing.removals == ()


def test_it_may_lie_in_the_top_folder() -> None:
    assert values(listed("pets-v2/", root="file_name,camera\ntest/cat/9.png,left\n"))["test/cat/9.png"] == ("left",)


def test_files_of_train_and_test_are_joined() -> None:
    listing = listed(train="file_name,light\ncat/1.png,sun\n", test="camera,file_name\nleft,cat/9.png\n")
    assert listing.columns == ("light", "camera")
    assert values(listing)["train/cat/1.png"] == ("sun", "")
    assert values(listing)["test/cat/9.png"] == ("", "left")


def test_what_spreadsheets_write_is_read() -> None:
    text = '\ufefffile_name, camera ,note\r\n\r\ncat/9.png,"left, upper", "\r\n'
    listing = listed(test=text.replace(', "', ", two words ").encode())
    assert listing.columns == ("camera", "note")
    assert values(listing)["test/cat/9.png"] == ("left, upper", "two words")


def test_a_row_of_a_file_that_is_no_image_does_not_count() -> None:
    sheets = {"metadata.csv": b"file_name,camera\nREADME.md,left\ntest/cat/9.png,right\n"}
    listing = arranged([*NAMES, "README.md"], sheets)
    assert values(listing)["test/cat/9.png"] == ("right",)


def test_without_rows_or_columns_nothing_is_known() -> None:
    assert values(listed(root="file_name,camera\n"))["test/cat/9.png"] == ("",)
    assert listed(root="file_name\ntest/cat/9.png\n").columns == ()


def test_in_another_place_it_is_a_file_like_others() -> None:
    sheets = {"train/cat/metadata.csv": b"\xff"}
    listing = arranged(NAMES, sheets)
    assert [removal.name for removal in listing.removals] == ["train/cat/metadata.csv"]
    assert listing.columns == ()


def test_beside_the_top_folder_it_is_a_file_like_others() -> None:
    sheets = {"pets-v2/metadata.csv": b"file_name,camera\n", "metadata.csv": b"file_name,lens\n"}
    listing = arranged([f"pets-v2/{name}" for name in NAMES], sheets)
    assert listing.columns == ("camera",)
    assert [removal.name for removal in listing.removals] == ["metadata.csv"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "no column 'file_name' among none; add it"),
        ("name,camera\ncat/9.png,left\n", 1, "no column 'file_name' among 'name', 'camera'; add it"),
        ("file_name,\ncat/9.png,left\n", 1, "column 2 has no name; name it"),
        ("file_name,a,a\ncat/9.png,1,2\n", 1, "column 'a' appears twice; remove one"),
        ("file_name,class\ncat/9.png,cat\n", 1, "column 'class' would be mistaken for the images' classes; give it"),
        ("file_name,a\ncat/9.png,1\ncat/8.png,1\n", 3, "'test/cat/8.png' (from the top of the data set) is not a file"),
        ("file_name,a\n../train/cat/1.png,1\n", 2, "is not a file of it; correct the path"),
        ("file_name,a\n,1\n", 2, "file_name is empty; fill it in"),
        ("file_name,a\ncat/9.png,1\n\ncat/9.png,2\n", 4, "has another row in pets: test/metadata.csv, line 2; remove"),
        ("file_name,a\ncat/9.png,1,2\n", 2, "3 cells, but 2 columns; make the numbers equal"),
        ("file_name,a\ncat/9.png\n", 2, "1 cells, but 2 columns"),
        ('file_name,a\ncat/9.png,"1\n', 2, "not valid CSV (unexpected end of data); save it as CSV"),
        ('file_name,a\ncat/9.png,"1"2\n', 2, "not valid CSV"),
        ("file_name,a\ndog/9.png,1\ncat/9.png,gr\u00fcn\n".encode("latin-1"), 3, "not UTF-8; save the file as UTF-8"),
    ],
)
def test_bad_metadata_name_file_line_and_fix(text: str | bytes, line: int, says: str) -> None:
    with pytest.raises(DataError) as error:
        listed(test=text)
    assert str(error.value).startswith(f"pets: {TEST}, line {line}: ")
    assert says in str(error.value)


def test_an_image_with_a_row_in_two_files_is_refused() -> None:
    with pytest.raises(DataError, match=r"test/metadata\.csv, line 2: .* another row in pets: metadata\.csv, line 3"):
        listed(root="file_name,a\ntest/dog/9.png,1\ntest/cat/9.png,1\n", test="file_name,a\ncat/9.png,1\n")


def test_metadata_make_another_fingerprint_and_none_leave_it_as_it_was() -> None:
    def made(*columns: str, **sheets: str | bytes) -> str:
        return fingerprint("d", SHAPING, listed(**sheets))

    first = made(root="file_name,camera\ntest/cat/9.png,left\n")
    assert first == made(test="file_name,camera\ncat/9.png,left\ndog/9.png,\n")  # the same said in another way
    others = [made(), made(root="file_name,camera\ntest/cat/9.png,right\n"), made(root="file_name,lens\n")]
    assert len({first, *others}) == 4
    assert made() == made(root="file_name\ntest/cat/9.png\n") == fingerprint("d", SHAPING, arranged(NAMES, {}))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path, "PNG")
    (folder / "metadata.csv").write_text("file_name,camera\ntest/cat/9.png,left\n")
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_it_is_read_from_every_kind_of_source(pets: Path, tmp_path: Path, kind: str) -> None:
    source = pets
    if kind == "tar.gz":
        source = tmp_path / "pets.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(pets, arcname="pets")
    elif kind == "zip":
        source = tmp_path / "pets.zip"
        with zipfile.ZipFile(source, "w") as packed:
            for path in pets.rglob("*.*"):
                packed.write(path, path.relative_to(pets))
    with open_source("image_folder", str(source), tmp_path) as opened:
        assert opened.listing.columns == ("camera",)
        assert {e.name: e.metadata for e, _ in opened.read()}["test/cat/9.png"] == ("left",)


def test_metadata_that_cannot_be_read_are_named(pets: Path, tmp_path: Path) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in pets.rglob("*.*"):
            packed.write(path, path.relative_to(pets))
    data = buffer.getvalue().replace(b"file_name,camera", b"file_name,CAMERA", 1)  # its checksum is wrong now
    (tmp_path / "pets.zip").write_bytes(data)
    with (
        open_source("image_folder", str(tmp_path / "pets.zip"), tmp_path) as opened,
        pytest.raises(DataError, match=r"pets\.zip: metadata\.csv: damaged in the archive"),
    ):
        opened.listing  # noqa: B018  # listing is what fails

from __future__ import annotations

import pytest

from tasks.errors import DataError
from tasks.vision.data.names import safe_name, split_of_file, split_of_folder


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "C:/x", r"..\x", r"a\b", "a\0b"])
def test_a_path_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="leads out of it"):
        safe_name(name, "pets.tar")


def test_a_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(DataError, match="not UTF-8; rename"):
        safe_name("train/caf\udce9/1.png", "pets.tar")


def test_a_path_longer_than_any_system_has_is_refused() -> None:
    assert safe_name("d" * 4094 + "/x", "pets.tar").endswith("d/x")
    with pytest.raises(DataError, match=r"pets\.tar holds a path of over 4096 bytes, 'dddd"):
        safe_name("d" * 4095 + "/x", "pets.tar")
    assert safe_name("d/" * 255 + "x", "pets.tar").endswith("/d/x")
    with pytest.raises(DataError, match=r"pets\.tar holds a path of over 255 folders, 'd/d/"):
        safe_name("d/" * 256 + "x", "pets.tar")


def test_a_path_is_given_in_its_plain_form() -> None:
    assert safe_name("./train//cat/./1..png", "pets.tar") == "train/cat/1..png"


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("valid", "validation"), ("test_images", "test"), ("images", None), ("trains", None),
     ("train_val", None), ("cat", None)],
)  # fmt: skip
def test_the_split_of_a_folder(name: str, split: str | None) -> None:
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [("data/train-00000-of-00002.parquet", "train"), ("test/metadata.csv", "test"), ("val_labels.csv", "validation"),
     ("default/validation/0000.parquet", "validation"), ("labels.csv", None), ("train_val.csv", None)],
)  # fmt: skip
def test_the_split_of_a_table(path: str, split: str | None) -> None:
    assert split_of_file(path) == split

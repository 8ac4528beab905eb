"""Zip files from programs that all write names in their own way."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.vision.data.stores import open_store


def packed(path: Path, names: list[bytes], extra: bytes = b"", flag: int = 0) -> Path:
    """Make a zip of files with these raw names, whatever they are; each holds its own name."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, raw in enumerate(names):
            info = zipfile.ZipInfo("x" * len(raw))
            info.extra = extra
            archive.writestr(info, str(index))
    data = path.read_bytes()
    for raw in names:
        data = data.replace(b"x" * len(raw), raw, 1)  # before the file
    start = data.index(b"PK\1\2")
    directory = data[start:]
    for raw in names:
        directory = directory.replace(b"x" * len(raw), raw, 1)
    path.write_bytes(data[:start] + directory)
    return path


def names(path: Path, encoding: str | None = None) -> list[str]:
    store = open_store(path, name_encoding=encoding)
    found = [(file.name, file.read()) for file in store.files()]
    assert [data for _, data in found] == [str(index).encode() for index in range(len(found))]
    return [name for name, _ in found]


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("gb18030", "猫狗"),
        ("cp932", "ねこ"),
        ("cp949", "고양이"),
        ("big5", "貓咪"),
        ("cp1251", "кошка"),
        ("cp437", "café"),
    ],
)
def test_names_are_read_in_the_encoding_that_is_given(encoding: str, word: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", [f"{word}/1.png".encode(encoding), f"{word}/12.png".encode(encoding)])
    assert names(path, encoding) == [f"{word}/1.png", f"{word}/12.png"]
    with pytest.raises(DataError, match=f"set name_encoding: .*'{word}' in "):
        names(path)


def test_utf_8_without_its_flag_is_seen(tmp_path: Path) -> None:
    assert names(packed(tmp_path / "x.zip", ["고양이/1.png".encode(), b"dog/1.png"])) == ["고양이/1.png", "dog/1.png"]


def test_a_name_that_does_not_fit_the_given_encoding_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", [b"caf\xe9/1.png"])
    with pytest.raises(DataError, match=r"holds the name b'caf\\xe9/1.png', which is not utf-8; correct name_encoding"):
        names(path, "utf-8")


def test_odd_names_of_files_alone_are_no_reason_to_ask(tmp_path: Path) -> None:
    store = open_store(packed(tmp_path / "x.zip", [b"cat/\xe9.png"]))
    assert [file.name for file in store.files()] == ["cat/Θ.png"]


def test_the_extra_field_with_the_name_in_utf_8_is_believed(tmp_path: Path) -> None:
    raw = b"caf\xe9/1.png"
    name = struct.pack("<BL", 1, zlib.crc32(raw)) + "café/1.png".encode()
    extra = struct.pack("<HH", 0x7075, len(name)) + name
    assert names(packed(tmp_path / "x.zip", [raw], extra)) == ["café/1.png"]
    stale = struct.pack("<HH", 0x7075, len(name)) + struct.pack("<BL", 1, 7) + name[5:]
    with pytest.raises(DataError, match="set name_encoding"):
        names(packed(tmp_path / "y.zip", [raw], stale))


def test_backslashes_are_folders_and_lead_nowhere_else(tmp_path: Path) -> None:
    assert names(packed(tmp_path / "x.zip", [rb"train\cat\1.png"])) == ["train/cat/1.png"]
    for raw in (rb"..\evil.png", rb"a\..\..\evil.png", rb"\evil.png", rb"C:\evil.png"):
        with pytest.raises(DataError, match="leads out of it"):
            names(packed(tmp_path / "x.zip", [raw]))


def test_zip64_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, archive.open("cat/1.png", "w", force_zip64=True) as file:
        file.write(b"0")
    assert names(tmp_path / "x.zip") == ["cat/1.png"]


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_read_bit_by_bit(kind: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", kind) as archive:
        archive.writestr("a", bytes(range(256)) * 1000)
    (file,) = open_store(tmp_path / "x.zip").files()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert len(archive.read("a")) == file.size == 256_000

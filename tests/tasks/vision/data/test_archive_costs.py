"""What an archive may cost before it is refused: each limit by itself; all of them together in `test_hostile`."""

from __future__ import annotations

import tarfile
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.vision.data.limits import MIB, Limits
from tasks.vision.data.links import follow
from tasks.vision.data.stores import open_store
from tests.tasks.vision.data.hostile import tars, zips
from tests.tasks.vision.data.hostile.material import COMPRESS, pets


def content(path: Path, data: bytes, limits: Limits | None = None) -> dict[str, bytes]:
    path.write_bytes(data)
    return {file.name: file.read() for file in open_store(path, limits=limits).files()}


def refused(path: Path, data: bytes, text: str, limits: Limits | None = None) -> None:
    with pytest.raises(DataError, match=text) as failure:
        content(path, data, limits)
    assert str(path) in str(failure.value)


def test_names_of_empty_files_are_counted(tmp_path: Path) -> None:
    """They unpack to nothing and compress to nothing, but take memory each."""
    limits = Limits(listing_from_bytes=MIB)
    few, many = (COMPRESS["zst"](tars.numbered(count, b"") + tars.END) for count in (1_000, 3_000))
    assert len(content(tmp_path / "few", few, limits)) == 1_000
    refused(tmp_path / "many", many, "whose names alone take over 10 times its size in memory", limits)
    names = [zips.Member(f"cat/{n}.png", b"") for n in range(20)]
    refused(tmp_path / "zip", zips.archive(names), "whose names alone", Limits(listing_from_bytes=1, listing_ratio=1))


def test_headers_and_padding_count_as_unpacked(tmp_path: Path) -> None:
    data = COMPRESS["zst"](tars.numbered(2_000, b"") + tars.END)
    refused(tmp_path / "x", data, "unpacks to over 100 times its size", Limits(ratio_from_bytes=MIB // 2))


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("compression", ["", "zst"])
def test_a_header_may_have_a_mebibyte(kind: bytes, compression: str, tmp_path: Path) -> None:
    """tarfile makes 15 million objects of the records of one of 64 MiB."""
    data = tars.entry("header", bytes(2 * MIB), kind=kind) + tars.files(pets()) + tars.END
    refused(tmp_path / "x", COMPRESS[compression](data), "over 1048576 bytes of headers for one file; pack it again")


def test_headers_for_all_files_may_be_a_hundred(tmp_path: Path) -> None:
    def archive(count: int) -> bytes:
        records = [tars.pax(tars.record(f"k{n}", b"v"), tarfile.XGLTYPE) for n in range(count)]
        return b"".join(records) + tars.files(pets()) + tars.END

    assert content(tmp_path / "few", archive(100)) == pets()
    refused(tmp_path / "many", archive(101), "over 100 pax headers for all its files")


def test_digits_without_end_are_no_header(tmp_path: Path) -> None:
    """The patterns of tarfile would take hours for them (CVE-2024-6232)."""
    began = time.monotonic()
    refused(tmp_path / "x", tars.pax(b"1" * (MIB - 1024)) + tars.END, "120 digits in a row")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("size", [-1, -512, -10_000])
def test_a_file_has_no_negative_size(size: int, tmp_path: Path) -> None:
    """tarfile would go back to an entry before, without end."""
    header = tars.pax(tars.record("size", str(size).encode())) + tars.entry("cat/z.png", b"x")
    refused(tmp_path / "x", tars.files(pets()) + header + tars.END, "bytes, which cannot be; pack it again")


def test_a_link_of_kilobytes_is_refused(tmp_path: Path) -> None:
    link = tars.entry("link", kind=tarfile.SYMTYPE, target="a/" * 2_049)
    refused(tmp_path / "x", link + tars.END, "'link', a link of over 4096 bytes; remove it")


def test_deep_folders_take_no_more_memory_than_their_paths() -> None:
    files = [f"{n}/" + "d/" * 250 + "x" for n in range(500)]
    tracemalloc.start()
    assert follow({"link": "1/d/d"}, files, "pets", 1000)[0] == {"link/" + "d/" * 248 + "x": files[1]}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * sum(map(len, files))


def test_links_with_long_targets_take_little_time() -> None:
    links = {f"l{n}": "a/" * 2_000 + "x" for n in range(2_000)} | {"a/a": "../a"}
    began = time.monotonic()
    broken = follow(links, {"a/x"}, "pets", 10_000)[1]
    assert time.monotonic() - began < 10
    assert "too far" in broken["l7"]


def test_a_folder_has_its_files_and_folders_once_each() -> None:
    files = ["a-b/1", "a/x/2", "a/x/3", "a/y", "a0/4", "b"]
    aliases, _ = follow({"z": "a", "all/w": "../z/x"}, files, "pets", 100)
    assert aliases == {"z/x/2": "a/x/2", "z/x/3": "a/x/3", "z/y": "a/y", "all/w/2": "a/x/2", "all/w/3": "a/x/3"}


def test_a_zip_that_is_mostly_directory_is_refused(tmp_path: Path) -> None:
    entries = [zips.Member("a.png", b"x")] + [zips.Member("d" * 60_000, b"", offset=0) for _ in range(150)]
    refused(tmp_path / "x", zips.archive(entries), r"a directory of 900\d+ bytes, over half of the archive")


def test_zstandard_in_a_zip_is_read_and_bounded(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    member = zips.Member("a.png", COMPRESS["zst"](data), zips.ZSTD, len(data), zlib.crc32(data))
    assert content(tmp_path / "good", zips.archive([member])) == {"a.png": data}
    member.size = 100
    with pytest.raises(DataError, match="unpacks to more than the 100 bytes that it declares"):
        content(tmp_path / "lies", zips.archive([member]))


def test_a_stream_that_asks_for_a_large_window_is_refused(tmp_path: Path) -> None:
    packed = b"\x28\xb5\x2f\xfd" + bytes([0, (30 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(DataError, match=r"[Ww]indow|memory"):
        content(tmp_path / "x", zips.archive([zips.Member("a.png", packed, zips.ZSTD, 10)]))

"""Compressed archives: good ones, damaged ones, and those that want too much memory."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.vision.data import compression
from tasks.vision.data.limits import MIB, Limits
from tasks.vision.data.stores import open_store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FILES = {"train/cat/1.png": b"cat one", "train/dog/1.png": bytes(range(256)) * 2000, "empty": b""}
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {"bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}
kinds = pytest.mark.parametrize("kind", COMPRESS)


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def content(path: Path, limits: Limits | None = None) -> dict[str, bytes]:
    return {file.name: file.read() for file in open_store(path, limits=limits).files()}


@kinds
def test_every_compression_is_read_and_told_by_content(kind: str, tmp_path: Path) -> None:
    (tmp_path / "download").write_bytes(COMPRESS[kind](tar(FILES)))
    assert content(tmp_path / "download") == FILES


@kinds
def test_only_the_files_that_are_asked_for_are_kept(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(COMPRESS[kind](tar(FILES)))
    assert [file.name for file in open_store(tmp_path / "x").files()] == list(FILES)  # skips by seeking


@kinds
def test_several_streams_one_behind_the_other_are_one(kind: str, tmp_path: Path) -> None:
    data, compress = tar(FILES), COMPRESS[kind]
    parts = [compress(data[:1000]), compress(data[1000:70000]), compress(data[70000:])]
    if kind == "xz":
        parts.insert(1, bytes(8))  # padding, as the format allows
    if kind == "zst":
        parts.insert(0, b"\x50\x2a\x4d\x18\x04\0\0\0abcd")  # a skippable frame, as pzstd writes
    (tmp_path / "x").write_bytes(b"".join(parts))
    assert content(tmp_path / "x") == FILES


@kinds
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_an_archive_cut_short_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = COMPRESS[kind](tar({"a": bytes(10_000), "b": bytes(range(256)) * 4000}))
    (tmp_path / "x").write_bytes(data[: max(8, int(len(data) * share))])
    with pytest.raises(DataError, match=r"cut short.*copy it again"):
        content(tmp_path / "x")


@kinds
def test_a_flipped_bit_is_noticed(kind: str, tmp_path: Path) -> None:
    data = bytearray(
        COMPRESS[kind](tar(FILES))
        if kind != "zst"
        else zstd.compress(tar(FILES), options={zstd.CompressionParameter.checksum_flag: 1})
    )
    data[len(data) // 2] ^= 4
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged, cut short or not an archive|damaged or cut short after"):
        content(tmp_path / "x")


@kinds
def test_a_bomb_is_refused_by_its_ratio(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(COMPRESS[kind](tar({"a.png": bytes(3 * MIB), "b.png": bytes(3 * MIB)})))
    with pytest.raises(DataError, match="over 100 times its size"):
        content(tmp_path / "x", Limits(ratio_from_bytes=4 * MIB))


@kinds
def test_a_bomb_behind_the_end_or_in_a_header_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "behind").write_bytes(COMPRESS[kind](tar({"a": b"1"}) + bytes(4 * MIB)))
    with pytest.raises(DataError, match="bytes between two entries"):
        content(tmp_path / "behind", Limits(entry_bytes=MIB))
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "header").write_bytes(COMPRESS[kind](header.tobuf(tarfile.GNU_FORMAT) + bytes(MIB)))
    with pytest.raises(DataError, match="bytes of headers for one file"):
        content(tmp_path / "header")


def test_an_xz_that_asks_for_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * MIB}]
    (tmp_path / "x").write_bytes(lzma.compress(tar(FILES), filters=filters))
    assert content(tmp_path / "x") == FILES
    monkeypatch.setattr(compression, "XZ_MEMORY", 32 * MIB)
    with pytest.raises(DataError, match="Memory usage limit"):
        content(tmp_path / "x")


def test_a_zstd_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, (30 - 10) << 3]) + b"\x01\x00\x00"  # a window of 1 GiB
    (tmp_path / "x").write_bytes(frame)
    with pytest.raises(DataError, match=r"ValueError: .*([Ww]indow|memory)"):
        content(tmp_path / "x")


@kinds
def test_a_compressed_file_that_holds_no_tar_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(COMPRESS[kind](b"just text" * 500))
    with pytest.raises(DataError, match="not an archive"):
        content(tmp_path / "x")

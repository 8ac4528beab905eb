from __future__ import annotations

import struct

import pytest

from tasks.vision.data.formats.directory import first_directory


def block(order: str, *entries: bytes, start: int = 8, magic: int = 42) -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", magic, start)
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_last_entry_with_a_tag_counts(order: str) -> None:
    entries = [struct.pack(order + "HHIHH", 274, 3, 1, value, 0) for value in (6, 8)]
    directory = first_directory(block(order, *entries))
    assert directory is not None
    assert directory.number(274) == 8
    assert directory.number(275) is None


@pytest.mark.parametrize(("kind", "count"), [(3, 2), (3, 0), (2, 1), (5, 1), (99, 1)])
def test_what_is_not_one_whole_number_is_none(kind: int, count: int) -> None:
    directory = first_directory(block("<", struct.pack("<HHIHH", 274, kind, count, 6, 0)))
    assert directory is not None
    assert directory.number(274) is None


def test_a_big_tiff_is_read_too() -> None:
    entry = struct.pack("<HHQHxxxxxx", 274, 3, 1, 6)
    directory = first_directory(b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, 1) + entry + bytes(8))
    assert directory is not None
    assert directory.number(274) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*\0",
        b"XX*\0\x08\0\0\0\0\0",
        block("<", start=9999),
        b"II+\0\x08\0\0\0" + b"\xff" * 8,  # BigTIFF that begins at 2**64 - 1
    ],
)
def test_a_block_without_a_directory_has_none(data: bytes) -> None:
    assert first_directory(data) is None


def test_a_directory_that_promises_more_than_there_is_ends_with_the_bytes() -> None:
    data = block("<", struct.pack("<HHIHH", 274, 3, 1, 6, 0))
    directory = first_directory(data[:8] + b"\xff\xff" + data[10:])
    assert directory is not None
    assert directory.number(274) == 6

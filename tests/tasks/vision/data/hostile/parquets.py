"""Parquet files that unpack to more than they say, or are damaged."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from tests.tasks.vision.data.hostile.material import MIB, image


def written(columns: dict[str, Any], **options: Any) -> bytes:
    """Return a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **{"compression": "zstd", **options})
    return buffer.getvalue()


def shared_image(random: Random) -> bytes:
    """One image of megabytes that thousands of rows share."""
    import pyarrow as pa

    size, rows = random.choice([(1, 40), (20, 5), (20, 2_000), (60, 1_000)])
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [image(1) + bytes(size * MIB)])
    return written({"image": shared, "label": [str(n % 2) for n in range(rows)]}, dictionary_pagesize_limit=2**30,
                   store_schema=False)  # fmt: skip


def shared_label(random: Random) -> bytes:
    """A label of megabytes that all rows share."""
    label = "x" * random.choice([1_000, MIB, 30 * MIB])
    rows = random.choice([10, 5_000]) if len(label) < MIB else 10
    return written({"image": [image(1)] * rows, "label": [label + str(n % 2) for n in range(rows)]})


def many_rows(random: Random) -> bytes:
    """Millions of rows that pack to nothing."""
    rows = random.choice([50_000, 400_000, 2_100_000])
    return written({"image": [image(1)] * rows, "label": ["a"] * (rows // 2) + ["b"] * (rows - rows // 2)})


def many_columns(random: Random) -> bytes:
    """Thousands of columns, or of row groups."""
    if random.random() < 0.5:
        return written({**{f"c{n}": [1] for n in range(3_000)}, "image": [image(1)], "label": ["a"]})
    return written(
        {"image": [image(n) for n in range(500)], "label": [str(n % 2) for n in range(500)]}, row_group_size=1
    )


def page_bomb(random: Random) -> bytes:
    """Pages that unpack to many times what the file's own figures say."""
    size = random.choice([50, 150, 600]) * MIB
    method = random.choice(["zstd", "gzip", "snappy", "brotli"])
    parts = 12
    data = written(
        {
            "image": [bytes([n]) + bytes(size // parts) for n in range(parts)],
            "label": [str(n % 2) for n in range(parts)],
        },
        compression=method, use_dictionary=False, write_statistics=False, data_page_size=random.choice([2**20, 2**30]),
    )  # fmt: skip
    if random.random() < 0.5:
        return data
    return _smaller_figures(data, size)


def _varint(value: int) -> bytes:
    value <<= 1  # zigzag
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _smaller_figures(data: bytes, size: int) -> bytes:
    """Write small figures over the large ones in the file's metadata, in as many bytes."""
    length = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - length
    footer = bytearray(data[start:-8])
    digits = len(_varint(size))
    for at in range(len(footer) - digits):
        part, value = footer[at : at + digits], 0
        for place, byte in enumerate(part):
            value |= (byte & 127) << (7 * place)
        whole = all(byte & 128 for byte in part[:-1]) and not part[-1] & 128
        if whole and 0.9 * size < value >> 1 < 1.1 * size:
            footer[at : at + digits] = bytes([0x80 | 0x42] + [0x80] * (digits - 2) + [0x01])
    return data[:start] + bytes(footer) + data[-8:]


def damaged_figures(random: Random) -> bytes:
    """A good file with some bytes of its metadata changed."""
    data = bytearray(written({"image": [image(n) for n in range(40)], "label": [str(n % 2) for n in range(40)]}))
    length = int.from_bytes(data[-8:-4], "little")
    for _ in range(random.choice([1, 3, 10])):
        data[random.randrange(len(data) - 8 - length, len(data) - 4)] = random.randrange(256)
    return bytes(data)


KINDS: Iterable[Callable[[Random], bytes]] = (
    shared_image, shared_label, many_rows, many_columns, page_bomb, damaged_figures,
)  # fmt: skip

"""Image files that the tests of decoding share: made by Pillow, by hand, or kept in `cases/`."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

CASES = Path(__file__).parent / "cases"


def case(name: str) -> bytes:
    """A file that people really have; the HEIC files are 64 x 48, red on the left and blue on the right."""
    return (CASES / name).read_bytes()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """The PNG with chunks after its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment at its beginning."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    return with_segment(jpeg, 0xE1, b"Exif\0\0" + block)


def hand_made_png(bits: int, colour: int, rows: bytes, *chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """A PNG of `rows` without their filter bytes."""
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i : i + stride] for i in range(0, len(rows), stride))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def hand_made_tiff(pixels: bytes, side: int, *more: tuple[int, int, int, int], bits: int = 8) -> bytes:
    """A grey TIFF in one strip, little-endian, with more entries (tag, type, count, value) or others in their place."""
    usual = {
        256: (3, 1, side),
        257: (3, 1, side),
        258: (3, 1, bits),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (3, 1, side),
        279: (4, 1, len(pixels)),
    }
    given = {tag for tag, *_ in more}
    entries = sorted([*((tag, *rest) for tag, rest in usual.items() if tag not in given), *more])
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(entries)) + table + bytes(4)


def heic_grid(columns: int, rows: int, declared: tuple[int, int] | None = None) -> bytes:
    """A HEIC of some kB with the picture of `photo.heic`, 64 x 64, in a grid; `declared` is the size it claims."""
    photo = case("photo.heic")
    at = photo.index(b"hvcC") - 4
    codec = photo[at : at + int.from_bytes(photo[at : at + 4], "big")]
    at = photo.index(b"mdat") + 4
    coded = photo[at : at + int.from_bytes(photo[at - 8 : at - 4], "big") - 8]
    width, height = 64 * columns, 64 * rows
    tiles = columns * rows  # libheif reads up to 1000 items
    parts = range(2, 2 + tiles)
    grid = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    file_type = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    infos = _info(1, b"grid") + b"".join(_info(item, b"hvc1") for item in parts)
    sizes = [_box(b"ispe", struct.pack(">III", 0, *size)) for size in (declared or (width, height), (64, 64))]
    owned = struct.pack(">IIHBB", 0, 1 + tiles, 1, 1, 1)
    owned += b"".join(struct.pack(">HBBB", item, 2, 2, 0x83) for item in parts)

    def meta(offset: int) -> bytes:
        places = struct.pack(">IBBHHHHII", 0, 0x44, 0, 1 + tiles, 1, 0, 1, offset, len(grid))
        places += b"".join(struct.pack(">HHHII", item, 0, 1, offset + len(grid), len(coded)) for item in parts)
        content = [
            _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
            _box(b"pitm", struct.pack(">IH", 0, 1)),
            _box(b"iinf", struct.pack(">IH", 0, 1 + tiles) + infos),
            _box(b"iref", bytes(4) + _box(b"dimg", struct.pack(f">HH{tiles}H", 1, tiles, *parts))),
            _box(b"iprp", _box(b"ipco", b"".join((*sizes, codec))) + _box(b"ipma", owned)),
            _box(b"iloc", places),
        ]
        return _box(b"meta", bytes(4) + b"".join(content))

    return file_type + meta(len(file_type) + len(meta(0)) + 8) + _box(b"mdat", grid + coded)


def _info(item: int, kind: bytes) -> bytes:
    return _box(b"infe", struct.pack(">IHH4sx", 2 << 24, item, 0, kind))


def _box(kind: bytes, content: bytes) -> bytes:
    """A box of HEIC."""
    return struct.pack(">I", len(content) + 8) + kind + content

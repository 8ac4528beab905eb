"""What hostile archives are made of: images that are good, compressors, and text that repeats."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable
from functools import cache
from random import Random

from PIL import Image

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

MIB = 2**20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": lambda data: gzip.compress(data, 6, mtime=0),
    "bz2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstd.compress(data, 3),
}


@cache
def image(number: int, side: int = 16) -> bytes:
    """Return a PNG; each number is another picture."""
    pixels = Random(number).randbytes(side * side * 3)  # noqa: S311  # a picture, not a secret
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pets(each: int = 6) -> dict[str, bytes]:
    """Return a data set that a run takes: two classes, so that nothing but the hostile part can be refused."""
    return {f"{label}/{n}.png": image(100 * (label == "dog") + n) for label in ("cat", "dog") for n in range(each)}


def packed(data: bytes, random: Random, kinds: str = "gz bz2 xz zst") -> bytes:
    """Compress in one of these ways; large data quickly."""
    kind = random.choice(kinds.split()) if len(data) < 8 * MIB else "zst"
    return COMPRESS[kind](data)

"""Colour profiles (ICC, version 2) made by hand, because Pillow can make none but sRGB's."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red, green and blue of sRGB and of Display P3, as XYZ at D50.
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3_PRIMARIES = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def rgb(primaries: tuple[tuple[float, float, float], ...] = P3_PRIMARIES, gamma: float = 2.2) -> bytes:
    """A screen; with `gamma` 0 a broken one, on which everything is black."""
    tags = {f"{name}XYZ".encode(): _xyz(*value) for name, value in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | {f"{name}TRC".encode(): _curve(gamma) for name in "rgb"})


def grey(gamma: float = 1.0) -> bytes:
    """Grey with a gamma; 1.0 is linear light."""
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk() -> bytes:
    """A press: no ink is white, and any black ink makes less light, down to none."""
    table = bytearray()
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = 0 if k else 255 - 40 * (c + m + y)
        table += bytes((light, 128 if k else 128 - 60 * c + 60 * m, 128 if k else 128 - 30 * c + 60 * y))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + identity * 4 + bytes(table) + identity * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lut}, kind=b"prtr")


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    tags = tags | {
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
    }
    table, body = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    header = bytearray(128)
    struct.pack_into(
        ">I4s4s4s4s4s", header, 0, 132 + len(table) + len(body), b"test", b"\2\x40\0\0", kind, space, connection
    )
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def _curve(gamma: float) -> bytes:
    if not gamma:
        return b"curv\0\0\0\0" + struct.pack(">I2H", 2, 0, 0)
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))

"""The formats that can be read: the one list that file suffixes, messages and docs are made from."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Bytes that `recognise` looks at; the brands of HEIC and AVIF lie within them.
_HEAD = 64
_HEIC = rb"heic|heix|heim|heis|hevc|hevx|hevm|hevs"


@dataclass(frozen=True)
class Format:
    """One format: `signature` matches the beginning of its files, which decides; `suffixes` are its usual names."""

    name: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]


def _format(name: str, suffixes: tuple[str, ...], signature: bytes) -> Format:
    return Format(name, suffixes, re.compile(signature, re.DOTALL))


FORMATS = (
    _format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), rb"\xff\xd8\xff"),
    _format("PNG", (".png", ".apng"), rb"\x89PNG\r\n\x1a\n"),
    _format("WebP", (".webp",), rb"RIFF.{4}WEBP"),
    _format("GIF", (".gif",), rb"GIF8[79]a"),
    # "BM" alone begins many a text: the size of the second header must be one that exists.
    _format("BMP", (".bmp", ".dib"), rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    _format("TIFF", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]"),
    # The first brand may be a general one (mif1); one of those that follow names the codec.
    _format("HEIC", (".heic", ".heif", ".hif"), rb".{4}ftyp(?:.{4})*?(?:" + _HEIC + rb")"),
    _format("AVIF", (".avif",), rb".{4}ftyp(?:.{4})*?(?:avif|avis)"),
)
NAMES = ", ".join(entry.name for entry in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
"""For messages: "JPEG, PNG, ... or AVIF"."""
SUFFIXES = tuple(suffix for entry in FORMATS for suffix in entry.suffixes)
"""Lower-case suffixes of files that are taken for images."""


def recognise(data: bytes) -> Format | None:
    """Return the format of a file by its first bytes; None for one that is not read."""
    head = bytes(data[:_HEAD])
    return next((entry for entry in FORMATS if entry.signature.match(head)), None)

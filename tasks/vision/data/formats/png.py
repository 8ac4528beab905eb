"""PNG files without the chunks that say nothing about pixels.

A text chunk, whole or damaged, small or a bomb, then neither stops the decoder nor takes memory. Of an animation the
first frame stays.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.vision.data.formats.orientation import orientation
from tasks.vision.data.formats.stripped import Stripped

_SIGNATURE = 8
_ANCILLARY = 0x20  # the bit that makes the first letter of a chunk's type a small one
# A profile is some kB, that of a press up to 4 MB; text that says the orientation is some kB.
_MAX_INFLATED = 4 * 2**20
_MAX_CHUNKS = 250_000  # of pictures of some MB, a few thousand; millions of empty ones would take minutes
_BITS, _COLOUR_TYPE = 24, 25  # where the header says them
_GREY, _RGB, _PALETTE = 0, 2, 3
_TRANSPARENT_BYTES = {_GREY: 2, _RGB: 6}
_TEXTS = _EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"


@dataclass(frozen=True)
class _Chunk:
    """One chunk: data[start:end] with length, type and checksum; `content` begins at start + 8."""

    kind: bytes
    start: int
    end: int


def strip(data: bytes) -> Stripped:
    """Drop every ancillary chunk but a whole tRNS; critical chunks stay; the decoder decides about them."""
    kept: list[bytes] = []
    found: dict[bytes, bytes] = {}  # the last of each kind, as it is: a file may hold many that are large inside
    begin = end = _SIGNATURE
    pixels = False
    for count, chunk in enumerate(_chunks(data)):
        if count >= _MAX_CHUNKS:
            raise ValueError(f"over {_MAX_CHUNKS} chunks")
        end = chunk.end
        pixels |= chunk.kind == b"IDAT"
        if not chunk.kind[0] & _ANCILLARY:
            continue
        content = data[chunk.start + 8 : chunk.end - 4]
        instead = b""
        if chunk.kind == b"tRNS":
            instead = _transparency(data, chunk, content)
            if instead == data[chunk.start : chunk.end]:
                continue
        elif chunk.kind in (b"eXIf", b"iCCP"):
            found[chunk.kind] = content
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt") and (key := content.partition(b"\0")[0]) in _TEXTS:
            found[key] = chunk.kind + content
        kept += data[begin : chunk.start], instead
        begin = chunk.end
    if pixels and data[end + 4 : end + 8] not in (b"IDAT", b"IEND"):
        data = data[:end]  # what follows the pixels is cut short or not a chunk
    if kept:
        data = b"".join((data[:_SIGNATURE], *kept, data[begin:]))
    exif = found[b"eXIf"] if b"eXIf" in found else _from_hex(_text(found.get(_EXIF_TEXT, b"")))
    icc = _inflated(found[b"iCCP"].partition(b"\0")[2][1:]) if b"iCCP" in found else None
    return Stripped(data, orientation(exif, _text(found.get(_XMP_TEXT, b""))), icc)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to the last whole one before the end of the file or before bytes that are not a chunk."""
    at = _SIGNATURE
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or not kind.isalpha() or kind == b"IEND":
            return
        yield _Chunk(kind, at, end)
        at = end


def _transparency(data: bytes, chunk: _Chunk, content: bytes) -> bytes:
    """Return the tRNS chunk in the units of the decoded samples; b"" for one that is damaged or does not fit.

    Pillow stretches grey of 2 and 4 bits to 8 and cuts RGB of 16 bits to 8, but leaves the transparent colour as it is.
    """
    bits, colour_type = data[_BITS], data[_COLOUR_TYPE]
    fits = (
        1 <= len(content) <= 256 if colour_type == _PALETTE else len(content) >= _TRANSPARENT_BYTES.get(colour_type, 1)
    )
    if not fits or int.from_bytes(data[chunk.end - 4 : chunk.end], "big") != zlib.crc32(
        data[chunk.start + 4 : chunk.end - 4]
    ):
        return b""
    if colour_type == _GREY and bits in (2, 4):
        content = bytes((0, (content[1] & (2**bits - 1)) * 255 // (2**bits - 1)))
    elif colour_type == _RGB and bits == 16:
        content = bytes((0, content[0], 0, content[2], 0, content[4]))
    body = chunk.kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _text(chunk: bytes) -> bytes:
    """Return the text in a text chunk, which is given as its type and content; b"" where there is none."""
    kind, (_, _, text) = chunk[:4], chunk[4:].partition(b"\0")
    if kind == b"zTXt":
        return _inflated(text[1:]) or b""
    if kind == b"iTXt":
        compressed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
        return (_inflated(text) or b"") if compressed else text
    return text


def _inflated(content: bytes) -> bytes | None:
    """Return the decompressed content; None where it is damaged or larger than anything useful."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(content, _MAX_INFLATED)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else inflated


def _from_hex(text: bytes) -> bytes:
    """Return the block in a text by ImageMagick: newline, kind, newline, length, newline, hex digits in lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        return b""

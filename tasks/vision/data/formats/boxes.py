"""HEIC and AVIF files without EXIF and XMP: their decoders read these first and stumble over damaged ones.

Neither says how the picture is turned: properties of the image (irot, imir) do, and the decoders apply them.
"""

from __future__ import annotations

import re

from tasks.vision.data.formats.stripped import Stripped

# An entry of the item list, version 2 or 3: flags, item ID (2 or 4 bytes), protection, then the item's type.
_METADATA_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)
# The link from an item to the image that it describes. pi-heif 1.4 crashes the process if the item's type is not UTF-8.
_DESCRIBES = b"cdsc"
# The size of an item as coded; a clip (clap) may show less of it.
_SIZE = re.compile(rb"ispe.{4}(.{4})(.{4})", re.DOTALL)


def strip(data: bytes) -> Stripped:
    """Rename the items of EXIF and XMP, and the links from images to them, to types that no decoder knows.

    Nothing moves.
    """
    parts: list[bytes] = []
    largest = (0, 0)
    begin = at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        end = len(data) if size == 0 else min(at + size, len(data))
        if end < at + 8:
            break
        if kind == b"meta":
            box = data[at:end]
            for width, height in _SIZE.findall(box):
                coded = int.from_bytes(width, "big"), int.from_bytes(height, "big")
                largest = max(largest, coded, key=lambda sides: sides[0] * sides[1])
            parts += data[begin:at], _METADATA_ITEM.sub(rb"\1free", box).replace(_DESCRIBES, b"free")
            begin = end
        at = end
    return Stripped(b"".join((*parts, data[begin:])), largest=largest)

"""How the camera was held: read from EXIF or XMP whatever else is wrong in them, and undone."""

from __future__ import annotations

import re

from PIL import Image

from tasks.vision.data.formats.directory import first_directory

TAG = 0x0112
UPRIGHT = 1
_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: object, xmp: object = None) -> int:
    """Return 1 (upright) to 8.

    Args:
        exif: the EXIF block, with or without its prefix `Exif`; anything but bytes counts as none.
        xmp: the XMP packet, which counts where EXIF does not say; anything but bytes counts as none.
    """
    found = None
    if isinstance(exif, bytes):
        start = 0
        while exif.startswith(_PREFIX, start):
            start += len(_PREFIX)
        directory = first_directory(exif[start:])
        found = directory.number(TAG) if directory else None
    if found is None and isinstance(xmp, bytes) and (match := _XMP.search(xmp)):
        found = int(match[1])
    return found if found in _UNDO else UPRIGHT


def upright(image: Image.Image, value: int) -> Image.Image:
    """Return the image turned and mirrored from orientation `value` to upright."""
    return image.transpose(_UNDO[value]) if value in _UNDO else image

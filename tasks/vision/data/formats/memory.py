"""How much memory the decoders of Pillow, libwebp, libavif and libheif take for an opened image, from its header.

Measured (tests/tasks/vision/data/formats/test_memory.py): a figure that is too small would let a file take what it
likes.
"""

from __future__ import annotations

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Bytes for each pixel of the decoded image; Pillow keeps RGB and grey with transparency in four, too.
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}
_MOST_BYTES = 4
# Bytes for each pixel that the decoder holds besides: the canvas and the frame before it of a WebP, which may be an
# animation; the planes of an AVIF or HEIC with 8 bits, and their conversion to RGB.
_BESIDES = {"WEBP": 12, "AVIF": 5, "HEIF": 4, "GIF": 1}
_BITS, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 258, 278, 322, 323  # tags of TIFF
_STRIPS = 8 * 2**20  # bytes, for converting a large image strip by strip


def needed(image: Image.Image, target: int) -> int:
    """Return how many bytes decoding takes at most.

    Args:
        image: opened by `images.open_image`, which leaves in `info` what the header says.
        target: side in pixels down to which a JPEG is decoded smaller, if the file allows that.
    """
    scale = 1
    if image.format in ("JPEG", "MPO") and not image.info.get("exact"):
        ratio = min(image.width // target, image.height // target)
        scale = next((step for step in (8, 4, 2) if ratio >= step), 1)
    pixels = max(int(image.info.get("pixels", 0)), image.width * image.height)
    each = _BYTES.get(image.mode, _MOST_BYTES) + _BESIDES.get(str(image.format), 0)
    kept = int(image.info.get("kept", 0)) + (_piece(image) if isinstance(image, TiffImageFile) else 0)
    return kept + pixels * each // scale**2 + _STRIPS


def _piece(image: TiffImageFile) -> int:
    """Return the bytes of the largest strip or tile, which libtiff unpacks whole."""
    tags = image.tag_v2
    rows = min(int(tags.get(_ROWS, image.height)), image.height)
    area = int(tags[_TILE_WIDTH]) * int(tags[_TILE_LENGTH]) if _TILE_WIDTH in tags else image.width * rows
    bits = tags.get(_BITS, (1,))
    return area * max(_MOST_BYTES, sum(bits) // 8)  # at least what libtiff makes of YCbCr

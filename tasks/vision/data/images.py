"""Turns an encoded image into the pixels that a model sees, in the same way for prepare and for the service.

A difference between training and serving here would cost accuracy that no metric shows, hence one function.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 8192 * 8192
# A JPEG much larger than the target is decoded at 1/2, 1/4 or 1/8 (exact in its DCT), never below this many times
# the target, so that the antialiased resize still has detail to average.
DRAFT_OVERSAMPLING = 4
# What Pillow's PNG, JPEG and EXIF parsers raise on damaged bytes, as found by a fuzzer and in their sources.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def decode(data: bytes, channels: int, size: int) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG file into pixels.

    Args:
        data: the whole file.
        channels: 1 for grey, 3 for RGB.
        size: side of the square result, in pixels.

    Returns:
        uint8 [channels, size, size], 0..255: upright (EXIF orientation honoured), transparency over white, the
        centre square resized with antialiasing.

    Raises:
        DataError: not a PNG or JPEG, damaged or cut short, or more than `MAX_PIXELS` pixels.
    """
    return pixels(open_image(data), channels, size)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 [1 or 3, H, W] as a PNG file, which `decode` turns into the same pixels again."""
    buffer = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def open_image(data: bytes) -> Image.Image:
    """Read the header of a PNG or JPEG; the pixels are not decoded yet.

    Raises:
        DataError: not a PNG or JPEG, or it declares more than `MAX_PIXELS` pixels.
    """
    if not data:
        raise DataError("the image is empty (0 bytes); give a PNG or JPEG file")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{len(data)} bytes that begin with {data[:4]!r} are not a PNG or JPEG image; convert them"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"the image declares far over {MAX_PIXELS} pixels; give a smaller one") from error
    except DAMAGE as error:
        raise _damaged(error) from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"the image declares {image.width} x {image.height} pixels, over {MAX_PIXELS}; give a smaller one"
        )
    return image


def pixels(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """Turn an opened image into uint8 [channels, size, size]; see `decode`.

    Raises:
        DataError: the image is damaged or cut short.
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    try:
        if image.format == "JPEG":
            image.draft(None, (size * DRAFT_OVERSAMPLING, size * DRAFT_OVERSAMPLING))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _plain(image, "L" if channels == 1 else "RGB")
    except DAMAGE as error:
        raise _damaged(error) from error
    if image.size != (size, size):
        # The square is cut first: resizing a 1 x 60,000,000 strip by its shorter side would fill the memory.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8-bit grey or RGB, whatever the file holds."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _damaged(error: Exception) -> DataError:
    return DataError(f"the image is damaged or cut short ({type(error).__name__}: {error}); give a whole file")

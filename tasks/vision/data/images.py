"""Turns an encoded image into the pixels that a model sees, in the same way for prepare and for the service.

A difference between training and serving here would cost accuracy that no metric shows, hence one function.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tasks.errors import DataError
from tasks.vision.data.formats import boxes, colour, jpeg, png, samples, tiff
from tasks.vision.data.formats.orientation import UPRIGHT, orientation, upright
from tasks.vision.data.formats.stripped import Stripped
from tasks.vision.data.formats.table import NAMES, recognise

MAX_PIXELS = 8192 * 8192
# A JPEG much larger than the target is decoded at 1/2, 1/4 or 1/8 (exact in its DCT), never below this many times
# the target, so that the antialiased resize still has detail to average.
DRAFT_OVERSAMPLING = 4
# prepare and the service decode several images at once.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def decode(data: bytes, channels: int, size: int) -> NDArray[np.uint8]:
    """Decode an image file of one of the formats in `formats.table` into pixels.

    Args:
        data: the whole file.
        channels: 1 for grey, 3 for RGB.
        size: side of the square result, in pixels.

    Returns:
        uint8 [channels, size, size], 0..255: the first frame or page, in sRGB, upright (EXIF orientation honoured),
        transparency over white, the centre square resized with antialiasing.

    Raises:
        DataError: the file is not in one of these formats, is damaged or cut short, or has over `MAX_PIXELS` pixels.
    """
    return pixels(open_image(data), channels, size)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 [1 or 3, H, W] as a PNG file, which `decode` turns into the same pixels again."""
    buffer = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def open_image(data: bytes) -> Image.Image:
    """Read the header of an image file; the pixels are not decoded yet.

    Raises:
        DataError: the file is not in one of the formats in `formats.table`, is damaged, or declares more than
            `MAX_PIXELS` pixels.
    """
    if not data:
        raise DataError(f"the image is empty (0 bytes); give a {NAMES} file")
    form = recognise(data)
    if form is None:
        raise DataError(f"{len(data)} bytes that begin with {data[:4]!r} are not a {NAMES} image; convert them")
    strip, opener = _READERS[form.name]
    try:
        stripped = strip(data)
        image = opener(BytesIO(stripped.data))
    except Image.DecompressionBombError as error:
        raise DataError(f"the image declares far over {MAX_PIXELS} pixels; give a smaller one") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    for width, height in (image.size, stripped.largest):
        if width * height > MAX_PIXELS:
            raise DataError(f"the image declares {width} x {height} pixels, over {MAX_PIXELS}; give a smaller one")
    turned = stripped.orientation or orientation(image.info.get("exif"), image.info.get("xmp"))
    image.info.update(orientation=turned, exact=stripped.exact)
    if stripped.icc:
        image.info["icc_profile"] = stripped.icc
    return image


def pixels(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """Turn an opened image into uint8 [channels, size, size]; see `decode`.

    Raises:
        DataError: the image is damaged or cut short, or has samples without a range.
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    try:
        if isinstance(image, JpegImageFile) and not image.info.get("exact"):
            image.draft(None, (size * DRAFT_OVERSAMPLING, size * DRAFT_OVERSAMPLING))
        image.load()
        profile = image.info.get("icc_profile")
        turned = image.info.get("orientation", UPRIGHT)
        image = upright(samples.eight_bit(image), turned)  # a turned TIFF has lost the tags that its samples need
        to_srgb = colour.to_srgb(profile, colour.colours(image.mode))
        if image.has_transparency_data:
            image, to_srgb = samples.on_white(image, to_srgb), None
        image = _as(image, mode if to_srgb is None else colour.colours(image.mode))
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    if image.size != (size, size):
        # The square is cut first: resizing a 1 x 60,000,000 strip by its shorter side would fill the memory.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if to_srgb is not None:
        # After the resize, as it costs as much as decoding: the colours differ by less than rounding does.
        image = _as(colour.apply(to_srgb, image), mode)
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def _heic(file: BytesIO) -> Image.Image:
    import pi_heif  # loads its libraries only where there are such files

    pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    image: Image.Image = pi_heif.HeifImageFile(file)
    return image


_READERS: dict[str, tuple[Callable[[bytes], Stripped], Callable[[BytesIO], Image.Image]]] = {
    "JPEG": (jpeg.strip, JpegImageFile),
    "PNG": (png.strip, PngImageFile),
    "WebP": (Stripped, WebPImageFile),
    "GIF": (Stripped, GifImageFile),
    "BMP": (Stripped, BmpImageFile),
    "TIFF": (tiff.strip, TiffImageFile),
    "HEIC": (boxes.strip, _heic),
    "AVIF": (boxes.strip, AvifImageFile),
}


def _as(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _damaged(error: Exception) -> DataError:
    return DataError(f"the image is damaged or cut short ({type(error).__name__}: {error}); give a whole file")

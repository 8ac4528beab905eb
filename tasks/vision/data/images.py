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
from PIL.ImageCms import ImageCmsTransform
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tasks.errors import DataError
from tasks.vision.data.formats import boxes, colour, jpeg, memory, png, samples, tiff
from tasks.vision.data.formats.orientation import UPRIGHT, orientation
from tasks.vision.data.formats.stripped import Stripped
from tasks.vision.data.formats.table import NAMES, recognise
from tasks.vision.data.square import Convert, centre_square

MAX_PIXELS = 8192 * 8192
MAX_BYTES = 400 * 2**20  # that decoding one image may take: enough for MAX_PIXELS in most formats, with 4 bytes each
# A JPEG much larger than the target is decoded at 1/2, 1/4 or 1/8 (exact in its DCT), never below this many times
# the target, so that the antialiased resize still has detail to average.
DRAFT_OVERSAMPLING = 4
# prepare and the service decode several images at once.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class ImageTooLargeError(DataError):
    """An image has more pixels than are decoded, or decoding it would take too much memory."""


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
        ImageTooLargeError: it has over `MAX_PIXELS` pixels, or decoding would take over `MAX_BYTES` of memory.
        DataError: the file is not in one of these formats, or is damaged or cut short.
    """
    return pixels(open_image(data), channels, size)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 [1 or 3, H, W] as a PNG file, which `decode` turns into the same pixels again."""
    buffer = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def open_image(data: bytes) -> Image.Image:
    """Read the header of an image file; the pixels are not decoded yet.

    Its `info["pixels"]` says how many pixels the decoder will fill, which may be more than the image shows.

    Raises:
        ImageTooLargeError: it declares more than `MAX_PIXELS` pixels.
        DataError: the file is not in one of the formats in `formats.table`, or is damaged.
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
        raise ImageTooLargeError(f"the image declares far over {MAX_PIXELS} pixels; give a smaller one") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    for width, height in (image.size, stripped.largest):
        if width * height > MAX_PIXELS:
            raise ImageTooLargeError(
                f"the image declares {width} x {height} pixels, over {MAX_PIXELS}; give a smaller one"
            )
    turned = stripped.orientation or orientation(image.info.get("exif"), image.info.get("xmp"))
    most = max(image.width * image.height, stripped.largest[0] * stripped.largest[1])
    image.info.update(orientation=turned, exact=stripped.exact, kept=stripped.kept, pixels=most)
    if stripped.icc:
        image.info["icc_profile"] = stripped.icc
    return image


def pixels(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """Turn an opened image into uint8 [channels, size, size]; see `decode`.

    Raises:
        ImageTooLargeError: decoding it would take over `MAX_BYTES` of memory.
        DataError: the image is damaged or cut short, or has samples without a range.
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    needed = memory.needed(image, size * DRAFT_OVERSAMPLING)
    if needed > MAX_BYTES:
        raise ImageTooLargeError(
            f"{image.width} x {image.height} pixels of this {image.format} file take {needed // 2**20} MiB to decode, "
            f"over {MAX_BYTES // 2**20}; make the image smaller, or save it as JPEG that is not progressive"
        )
    try:
        if isinstance(image, JpegImageFile) and not image.info.get("exact"):
            image.draft(None, (size * DRAFT_OVERSAMPLING, size * DRAFT_OVERSAMPLING))
        image.load()
        to_srgb, convert = _conversion(image, mode)
        square = centre_square(image, image.info.get("orientation", UPRIGHT), convert, size)
        if to_srgb is not None:
            # After the resize, as it costs as much as decoding: the colours differ by less than rounding does.
            square = _as(colour.apply(to_srgb, square), mode)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    array = np.asarray(square, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def _conversion(image: Image.Image, mode: str) -> tuple[ImageCmsTransform | None, Convert]:
    """Return what is done to the colours of a decoded image: after the resize, and before it."""
    tags = getattr(image, "tag_v2", {})
    profile = image.info.get("icc_profile")
    plain = "L" if image.mode.startswith("I;16") else image.mode
    to_srgb = colour.to_srgb(profile, colour.colours(plain))
    transparent = plain == image.mode and image.has_transparency_data

    def convert(part: Image.Image) -> Image.Image:
        part = samples.eight_bit(part, tags)
        if transparent:
            return _as(samples.on_white(part, to_srgb), mode)
        return _as(part, mode if to_srgb is None else colour.colours(plain))

    return None if transparent else to_srgb, convert


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

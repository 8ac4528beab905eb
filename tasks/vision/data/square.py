"""Cuts the centre square out of a decoded image, converts its colours and resizes it, without a second large image.

A photo of 60 million pixels takes 240 MB once it is decoded. Each of turning it upright, laying it on white and
converting its colours would take that much again, so a large image goes through these in strips. The result is the same
to the bit: all but turning happens to each pixel by itself, and Pillow resizes in one direction first, which needs no
other row or column.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from tasks.vision.data.formats.orientation import upright

Convert = Callable[[Image.Image], Image.Image]

STRIP_PIXELS = 2**18
# Sides up to this are resized at their own coordinates; from a longer one only a window around the square is kept,
# since all its rows, made narrow, would be large too.
MAX_COORDINATE = 16_384
_SUPPORT = 2  # of BICUBIC, in pixels of the larger of source and result
# Orientations in which the upright image's rows are the file's columns, or which count from its right or lower side.
_SIDEWAYS = frozenset((5, 6, 7, 8))
_FROM_THE_RIGHT = frozenset((2, 3, 7, 8))
_FROM_BELOW = frozenset((3, 4, 6, 7))


def centre_square(image: Image.Image, orientation: int, convert: Convert, size: int) -> Image.Image:
    """Return the centre square of an image as `size` x `size` pixels, antialiased.

    Args:
        image: decoded, as the file has it.
        orientation: 1 to 8 as in EXIF.
        convert: what to do to each pixel before the resize; returns a mode that Pillow can resize.
        size: side of the result.
    """
    if image.width * image.height <= STRIP_PIXELS:
        return _resized(convert(upright(image, orientation)), size)
    width, height = image.size if orientation not in _SIDEWAYS else (image.height, image.width)
    side = min(width, height)
    # Coordinates stay those of the whole image, unless it is so long that only a window of it is kept.
    left, right = _window((width - side) // 2, side, size, width)
    top, bottom = _window((height - side) // 2, side, size, height)
    x, y = (width - side) // 2 - left, (height - side) // 2 - top
    by_rows = height - size <= 2 * (width - size)  # as Pillow decides it

    def strip(x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        return convert(upright(image.crop(_place(image, orientation, (x0, y0, x1, y1))), orientation))

    half: Image.Image | None = None  # resized in one direction
    if by_rows:
        step = max(1, STRIP_PIXELS // (right - left))
        for begin in range(top, bottom, step):
            end = min(begin + step, bottom)
            part = strip(left, begin, right, end)
            part = part.resize((size, end - begin), Image.Resampling.BICUBIC, box=(x, 0, x + side, end - begin))
            half = half or Image.new(part.mode, (size, bottom - top))
            half.paste(part, (0, begin - top))
        box = (0, y, size, y + side)
    else:
        step = max(1, STRIP_PIXELS // (bottom - top))
        for begin in range(left, right, step):
            end = min(begin + step, right)
            part = strip(begin, top, end, bottom)
            part = part.resize((end - begin, size), Image.Resampling.BICUBIC, box=(0, y, end - begin, y + side))
            half = half or Image.new(part.mode, (right - left, size))
            half.paste(part, (begin - left, 0))
        box = (x, 0, x + side, size)
    assert half is not None  # noqa: S101  # there is at least one row
    return half.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _window(begin: int, side: int, size: int, length: int) -> tuple[int, int]:
    """Return from where to where a side is needed for the square that begins at `begin`."""
    margin = _SUPPORT * max(1, -(-side // size)) + 2
    first, last = max(0, begin - margin), min(length, begin + side + margin)
    return (first, last) if length > MAX_COORDINATE else (0, length)


def _place(image: Image.Image, orientation: int, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return where in the file's image the box of the upright one lies."""
    left, top, right, bottom = box
    if orientation in _SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _FROM_THE_RIGHT:
        left, right = image.width - right, image.width - left
    if orientation in _FROM_BELOW:
        top, bottom = image.height - bottom, image.height - top
    return left, top, right, bottom

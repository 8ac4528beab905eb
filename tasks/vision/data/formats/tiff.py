"""TIFF files with only the entries that their pixels need, and only their first page."""

from __future__ import annotations

from tasks.vision.data.formats import orientation
from tasks.vision.data.formats.directory import first_directory
from tasks.vision.data.formats.stripped import Stripped

_TILE_WIDTH, _TILE_LENGTH = 322, 323
# TIFF 6.0, its supplements, and 34675 (colour profile).
_PIXEL_TAGS = frozenset(
    (
        *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279),  # size, bits, compression, colour model, strips
        *(284, 292, 293, 317, 320, _TILE_WIDTH, _TILE_LENGTH, 324, 325),  # planes, fax, predictor, palette, tiles
        *(332, 333, 334, 338, 339, 347, *range(512, 522)),  # inks, extra samples, sample format, JPEG
        *(529, 530, 531, 532, 34675),  # YCbCr, colour profile
    )
)


def strip(data: bytes) -> Stripped:
    """Leave out all other entries of the first directory, and the pages after it. Nothing else moves.

    Raises:
        ValueError: the size of the tiles is not clear. The decoder may then see another one, of any size.
    """
    directory = first_directory(data)
    if directory is None:
        return Stripped(data, orientation.UPRIGHT)
    turned = directory.number(orientation.TAG)
    short = directory.only(_PIXEL_TAGS)
    whole = b"".join((data[: directory.start], short, data[directory.start + len(short) :]))
    tiles = [entry.tag for entry in directory.entries if entry.tag in (_TILE_WIDTH, _TILE_LENGTH)]
    tile = directory.number(_TILE_WIDTH), directory.number(_TILE_LENGTH)
    if tiles and (len(tiles) > 2 or None in tile):
        raise ValueError("unusual tile size")
    return Stripped(whole, turned or orientation.UPRIGHT, largest=(tile[0] or 0, tile[1] or 0))

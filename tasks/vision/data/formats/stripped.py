"""What every format's reader returns: the file without the metadata that its decoder would stumble over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stripped:
    """An image file for the decoder, and what had to be read from its metadata first.

    Attributes:
        data: the file; only metadata that cannot change a pixel is missing.
        orientation: 1 to 8 as in EXIF; None where the decoder's `info` tells it.
        icc: the colour profile; None where there is none, or the decoder's `info` holds it.
        exact: whether the decoder must not scale while it decodes.
        largest: width and height of the largest piece that the decoder fills whole, however little of it is shown;
            (0, 0) where there is none.
        kept: bytes that the decoder keeps until the end besides the pixels.
    """

    data: bytes
    orientation: int | None = None
    icc: bytes | None = None
    exact: bool = False
    largest: tuple[int, int] = (0, 0)
    kept: int = 0

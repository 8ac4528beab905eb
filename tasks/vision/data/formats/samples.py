"""From the samples of a file to 8-bit colours without transparency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tasks.errors import DataError
from tasks.vision.data.formats import colour

_BITS, _COLOUR_MODEL, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second


def eight_bit(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Return a decoded image, or a part of one, with 8-bit samples.

    Args:
        image: what was decoded.
        tags: of the TIFF file, which a part no longer has; none in other formats.

    Raises:
        DataError: 32-bit, signed or floating-point samples.
    """
    if image.mode in ("I", "F"):
        raise DataError("the samples are 32-bit, signed or floating-point numbers without a range; save 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        samples = np.asarray(image).astype(np.uint16)
        grey = (samples >> (tags.get(_BITS, (16,))[0] - 8)).astype(np.uint8)
        if tags.get(_COLOUR_MODEL) == _WHITE_IS_ZERO:
            grey = 255 - grey
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[samples == transparent] = 255  # white shows through
        return Image.fromarray(grey)
    return image


def on_white(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """Return an image with transparency as RGBA over white, its colours converted first."""
    layer = image.convert("RGBA")
    if to_srgb is not None:
        visible = layer.convert("RGB").convert(colour.colours(image.mode))
        alpha = layer.getchannel("A")
        layer = colour.apply(to_srgb, visible)
        layer.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)

"""Colour profiles: from the colours that a file means to sRGB, which is what training and serving see."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# Profiles of presses reach 4 MB. The cache then holds 64 MB at most.
MAX_PROFILE_BYTES = 4 * 2**20
PROFILES = 16
# Differences that rounding and the many spellings of sRGB make, of 255.
SAME = 2
# A profile that shows black to white with less contrast than this is broken, of 255.
LEAST_CONTRAST = 64
# What a mode of Pillow is called in a profile.
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_COLOURS = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"), "RGB"),
}


def colours(mode: str) -> str:
    """Return the mode of the same colours without palette and transparency: L, RGB, CMYK or LAB."""
    return _COLOURS.get(mode, mode)


def to_srgb(profile: object, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of an image of mode L, RGB, CMYK or LAB to RGB in sRGB.

    None where there is nothing to do: no profile, sRGB already, or a profile that is broken, of another colour
    model, or over `MAX_PROFILE_BYTES`. A transform may be used by several threads.
    """
    if mode == "LAB":
        return _transform(b"", mode)
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE_BYTES:
        return None
    return _transform(profile, mode)


def apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    """Return the image, of the mode that the transform was made for, as RGB in sRGB."""
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # noqa: S101  # only in place it is None
    return converted


@lru_cache(PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if source.profile.xcolor_space.strip() != _SPACES.get(mode):
                return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
        return None if mode != "LAB" and _needless(transform, mode) else transform
    except Exception:  # whatever is wrong in a profile, the pixels can be shown without it
        return None


def _needless(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether a transform changes nothing visible, or destroys the contrast."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    channels = Image.getmodebands(mode)
    grid = np.stack(np.meshgrid(*[steps if channels < 4 else steps[::4]] * channels, indexing="ij"), -1)
    probe = Image.frombytes(mode, (grid.size // channels, 1), grid.tobytes())
    seen = np.asarray(apply(transform, probe)).astype(int)
    if seen.max() - seen.min() < LEAST_CONTRAST:
        return True
    return channels < 4 and int(np.abs(seen - np.asarray(probe.convert("RGB"))).max()) <= SAME

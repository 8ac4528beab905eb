from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tasks.vision.data import images
from tasks.vision.data.formats import colour
from tests.tasks.vision.data import profiles
from tests.tasks.vision.data.picture_files import encoded, noise


def flat(mode: str, value: object, kind: str = "PNG", **options: object) -> bytes:
    return encoded(Image.new(mode, (16, 16), value), kind, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
def test_a_wide_gamut_is_converted_to_srgb(kind: str) -> None:
    options = {"JPEG": {"quality": 100}, "WebP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    data = flat("RGB", (200, 100, 100), kind, icc_profile=profiles.rgb(), **options)
    assert np.abs(images.decode(data, 3, 16)[:, 8, 8].astype(int) - (216, 93, 97)).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_srgb_changes_no_pixel(kind: str) -> None:
    image = noise(40, 30)
    plain = images.decode(encoded(image, kind), 3, 16)
    np.testing.assert_array_equal(images.decode(encoded(image, kind, icc_profile=profiles.SRGB), 3, 16), plain)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_is_converted_too(channels: int) -> None:
    for mode, value in (("L", 128), ("LA", (128, 255))):
        data = flat(mode, value, icc_profile=profiles.grey())  # linear light
        assert np.abs(images.decode(data, channels, 16).astype(int) - 188).max() <= 1


def test_sixteen_bit_grey_and_palettes_are_converted() -> None:
    deep = encoded(Image.fromarray(np.full((16, 16), 0x8000, np.uint16)), icc_profile=profiles.grey())
    assert np.abs(images.decode(deep, 3, 16).astype(int) - 188).max() <= 1
    indexed = Image.new("RGB", (16, 16), (200, 100, 100)).quantize(2)
    data = encoded(indexed, icc_profile=profiles.rgb())
    assert np.abs(images.decode(data, 3, 16)[:, 8, 8].astype(int) - (216, 93, 97)).max() <= 3


def test_colours_are_converted_before_they_are_laid_on_white() -> None:
    data = flat("RGBA", (200, 100, 100, 128), icc_profile=profiles.rgb())
    expected = [(value * 128 + 255 * 127) / 255 for value in (216, 93, 97)]
    assert np.abs(images.decode(data, 3, 16)[:, 8, 8] - expected).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        bytes(5000),
        profiles.rgb()[:200],
        profiles.rgb(gamma=0),  # everything black
        profiles.cmyk(),  # of another colour model
        profiles.grey(),
        profiles.rgb() + bytes(colour.MAX_PROFILE_BYTES),
    ],
    ids=["text", "zeros", "cut", "black", "cmyk", "grey", "huge"],
)
def test_a_broken_or_absurd_profile_is_ignored(profile: bytes) -> None:
    image = noise(16, 16)
    for kind in ("PNG", "TIFF", "JPEG"):
        plain = images.decode(encoded(image, kind), 3, 16)
        with_profile = encoded(image, kind, icc_profile=profile)
        np.testing.assert_array_equal(images.decode(with_profile, 3, 16), plain)


def test_no_damaged_byte_of_a_profile_refuses_the_image() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        profile = bytearray(profiles.rgb() if generator.random() < 0.5 else profiles.cmyk())
        for at in generator.integers(0, 500, 5):
            profile[at % len(profile)] = int(generator.integers(0, 256))
        mode = "CMYK" if bytes(profile[16:20]) == b"CMYK" else "RGB"
        assert images.decode(encoded(noise(8, 8).convert(mode), "JPEG", icc_profile=bytes(profile)), 3, 8).size == 192


def test_threads_share_a_transform() -> None:
    files = [encoded(noise(64, 64, seed), icc_profile=profiles.rgb()) for seed in range(8)]
    alone = [images.decode(file, 3, 64) for file in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda file: images.decode(file, 3, 64), files * 4))
    for index, decoded in enumerate(together):
        np.testing.assert_array_equal(decoded, alone[index % 8])

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.formats import boxes
from tests.tasks.vision.data.formats.test_orientation import exif_block
from tests.tasks.vision.data.picture_files import case, encoded

RED, BLUE = (200, 30, 30), (30, 30, 200)


def halves() -> Image.Image:
    image = Image.new("RGB", (64, 48), RED)
    image.paste(BLUE, (32, 0, 64, 48))
    return image


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= 6)


@pytest.mark.parametrize("data", [case("photo.heic"), encoded(halves(), "AVIF", quality=90)], ids=["HEIC", "AVIF"])
def test_a_photo_of_a_phone(data: bytes) -> None:
    assert images.open_image(data).size == (64, 48)
    decoded = images.decode(data, 3, 48)
    assert near(decoded[:, 24, 4], RED)
    assert near(decoded[:, 24, -5], BLUE)
    assert images.decode(data, 1, 48).shape == (1, 48, 48)


def test_a_turned_photo_is_turned_once() -> None:
    data = case("turned.heic")  # holds both its own turn and an orientation in EXIF
    assert images.open_image(data).size == (48, 64)
    decoded = images.decode(data, 3, 48)
    assert near(decoded[:, 4, 24], RED)
    assert near(decoded[:, -5, 24], BLUE)


@pytest.mark.parametrize("value", range(1, 9))
def test_an_avif_is_turned_once(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    expected = images.decode(encoded(halves(), exif=exif), 3, 48)
    decoded = images.decode(encoded(halves(), "AVIF", quality=95, subsampling="4:4:4", exif=exif), 3, 48)
    assert np.abs(decoded.astype(int) - expected).mean() < 3


def test_transparency_shows_white() -> None:
    assert (images.decode(case("transparent.heic"), 3, 16) == 255).all()
    assert (images.decode(encoded(Image.new("RGBA", (16, 16)), "AVIF"), 3, 16) == 255).all()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    data = encoded(halves(), "AVIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "green")])
    assert near(images.decode(data, 3, 48)[:, 24, 4], RED)


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_damaged_exif_does_not_matter(kind: str) -> None:
    data = case("turned.heic") if kind == "HEIC" else encoded(halves(), "AVIF", exif=b"Exif\0\0" + exif_block(1))
    expected = images.decode(data, 3, 48)
    at = data.index(b"MM\0*")
    for damage in (b"XX", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 16):
        broken = data[:at] + damage + data[at + len(damage) :]
        np.testing.assert_array_equal(images.decode(broken, 3, 48), expected)
    assert boxes.strip(data).data != data


@pytest.mark.parametrize("at", range(4))
def test_a_type_of_metadata_that_is_no_text_does_not_end_the_process(at: int) -> None:
    data = case("turned.heic")  # pi-heif 1.4 crashes on it
    place = data.index(b"\0\0Exif") + 2 + at
    broken = data[:place] + b"\xff" + data[place + 1 :]
    np.testing.assert_array_equal(images.decode(broken, 3, 48), images.decode(data, 3, 48))


@pytest.mark.parametrize("data", [case("photo.heic"), encoded(halves(), "AVIF")], ids=["HEIC", "AVIF"])
def test_absurd_dimensions_are_refused(data: bytes) -> None:
    at = data.index(b"ispe") + 8
    huge = data[:at] + (20000).to_bytes(4, "big") * 2 + data[at + 8 :]
    with pytest.raises(DataError, match=r"pixels|damaged"):
        images.open_image(huge)
    assert boxes.strip(huge).largest == (20000, 20000)


@pytest.mark.parametrize("end", [b"\0\0\0\x01meta", b"\0\0\0\0meta", b"\0\0\0\x02meta", b"\xff\xff\xff\xffmeta", b"\0"])
def test_boxes_that_are_no_boxes_are_left_to_the_decoder(end: bytes) -> None:
    data = b"\0\0\0\x14ftypheic\0\0\0\0heic" + end
    assert boxes.strip(data).data == data
    with pytest.raises(DataError, match="damaged"):
        images.open_image(data)

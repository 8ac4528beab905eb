from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.formats import jpeg
from tests.tasks.vision.data import profiles
from tests.tasks.vision.data.picture_files import encoded, noise, with_exif, with_segment

BROKEN_METADATA = {
    "short JFIF": (0xE0, b"JFIF\0"),
    "short Adobe": (0xEE, b"Adobe"),
    "empty profile": (0xE2, b"ICC_PROFILE\0"),
    "Photoshop cut short": (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"),
    "empty segment": (0xE5, b""),
    "comment": (0xFE, b"\xff" * 300),
    "MPO without a directory": (0xE2, b"MPF\0"),
    "EXIF of one byte": (0xE1, b"Exif\0\0M"),
}


def pillows(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert(mode)).transpose(2, 0, 1)


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_metadata_never_decides_whether_pixels_can_be_read(name: str) -> None:
    data = encoded(noise(32, 32), "JPEG")
    np.testing.assert_array_equal(images.decode(with_segment(data, *BROKEN_METADATA[name]), 3, 32), pillows(data))


def test_a_hundred_thousand_segments_are_read_once() -> None:
    data = encoded(noise(32, 32), "JPEG")
    prefixes = b"\xff\xe1\x00\x0eExif\0\0Exif\0\0"
    np.testing.assert_array_equal(images.decode(data[:2] + prefixes * 200_000 + data[2:], 3, 32), pillows(data))


def test_a_file_without_metadata_is_not_copied() -> None:
    data = encoded(noise(32, 32), "JPEG")
    assert jpeg.strip(data).data is data


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_the_pixels_are_those_of_pillow(options: dict[str, object]) -> None:
    data = with_exif(encoded(noise(32, 32), "JPEG", **options), b"MM\0*")
    np.testing.assert_array_equal(images.decode(data, 3, 32), pillows(data))


def ink(colour: tuple[int, int, int, int], **options: object) -> bytes:
    return encoded(Image.new("CMYK", (16, 16), colour), "JPEG", quality=95, **options)


def test_inks_without_a_profile_are_as_pillow_shows_them() -> None:
    np.testing.assert_array_equal(images.decode(ink((255, 0, 0, 0)), 3, 16), pillows(ink((255, 0, 0, 0))))


@pytest.mark.parametrize(
    ("colour", "shown"), [((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 241, 255))]
)
@pytest.mark.parametrize("transform", [0, 2])
def test_a_profile_of_a_press_says_how_its_inks_look(
    colour: tuple[int, int, int, int], shown: tuple[int, int, int], transform: int
) -> None:
    data = ink(colour, icc_profile=profiles.cmyk())
    if transform == 2:  # YCCK: as Adobe's programs save; inverted like CMYK
        data = ycck(colour, profiles.cmyk())
    decoded = images.decode(data, 3, 16)
    assert np.abs(decoded[:, 8, 8].astype(int) - shown).max() <= 6


def ycck(colour: tuple[int, int, int, int], profile: bytes) -> bytes:
    """A flat YCCK JPEG: three channels of YCbCr that stand for inverted CMY, and K, marked so by Adobe's segment."""
    # The decoder gives 255 - RGB(YCbCr) for the inverted CMY: YCbCr of CMY itself. Pillow
    # writes 255 minus each channel.
    y, cb, cr = Image.new("RGB", (1, 1), colour[:3]).convert("YCbCr").getpixel((0, 0))  # type: ignore[misc]
    data = ink((255 - y, 255 - cb, 255 - cr, colour[3]), icc_profile=profile)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\2" + data[at + 1 :]


def test_ycck_without_a_profile_is_the_same_colour_as_cmyk() -> None:
    colour = (200, 40, 90, 30)
    difference = images.decode(ycck(colour, b""), 3, 16).astype(int) - images.decode(ink(colour), 3, 16)
    assert np.abs(difference).max() <= 4


def test_of_several_pictures_the_first_is_taken_at_its_full_size() -> None:
    first, second = noise(8, 8).resize((400, 400)), Image.new("RGB", (400, 400), "red")
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    whole = Image.open(BytesIO(data))
    assert whole.format == "MPO"
    expected = np.asarray(whole.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(images.decode(data, 3, 16), expected)


def test_the_parts_of_a_profile_are_joined_by_their_numbers() -> None:
    data = encoded(noise(16, 16), "JPEG")
    for number, part in ((1, b"one"), (3, b"three"), (2, b"two")):
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0" + bytes((number, 3)) + part)
    assert jpeg.strip(data).icc == b"onetwothree"
    assert jpeg.strip(with_segment(data, 0xE2, b"ICC_PROFILE\0\4\3four")).icc is None
    assert images.decode(data, 3, 16).shape == (3, 16, 16)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\0\1", b"\xff\xd8\xff" * 9])
def test_a_file_of_markers_alone_is_left_to_the_decoder(data: bytes) -> None:
    assert jpeg.strip(data).data == data


def test_filler_before_a_marker_is_dropped() -> None:
    plain = encoded(noise(16, 16), "JPEG")
    for length in (1, 1000, 100_000):
        filled = plain[:2] + b"\xff" * length + plain[2:]
        np.testing.assert_array_equal(images.decode(filled, 3, 16), images.decode(plain, 3, 16))
    assert len(jpeg.strip(filled).data) <= len(plain)


def test_more_segments_than_any_picture_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of them would keep the service busy for minutes."""
    monkeypatch.setattr("tasks.vision.data.formats.jpeg._MAX_MARKERS", 20)
    plain = encoded(noise(16, 16), "JPEG")
    images.decode(plain, 3, 16)
    with pytest.raises(DataError, match="over 20 segments"):
        images.decode(plain[:2] + b"\xff\xfe\x00\x02" * 20 + plain[2:], 3, 16)


def with_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again and again: 39 bytes each."""
    data = encoded(Image.new("RGB", (side, side), (10, 200, 30)), "JPEG", progressive=True)
    table = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:-2] + data[table:-2] * count + data[-2:]


def test_scans_are_counted_because_each_takes_as_long_as_the_image_is_large() -> None:
    data = with_scans(80)
    np.testing.assert_array_equal(images.decode(data, 3, 64), pillows(data))
    with pytest.raises(DataError, match="over 100 scans"):
        images.open_image(with_scans(100))
    hidden = with_segment(with_scans(100), 0xFE, b"\xff\xd9")
    with pytest.raises(DataError, match="over 100 scans"):
        images.open_image(hidden)


def test_the_video_behind_a_photo_is_not_counted_as_scans() -> None:
    """As phones write it for pictures that move."""
    photo = encoded(noise(32, 32), "JPEG", progressive=True)
    np.testing.assert_array_equal(images.decode(photo + b"\xff\xda" * 1000, 3, 32), pillows(photo))
    photo = encoded(noise(32, 32), "JPEG")
    np.testing.assert_array_equal(images.decode(photo + b"\xff\xda" * 1000, 3, 32), pillows(photo))

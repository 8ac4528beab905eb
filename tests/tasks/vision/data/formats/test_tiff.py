from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tests.tasks.vision.data.picture_files import encoded, hand_made_tiff, noise

TEXT, FRACTION = 2, 5


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_every_compression_and_colour_model(compression: str, mode: str) -> None:
    image = noise(16, 16).convert(mode)
    decoded = images.decode(encoded(image, "TIFF", compression=compression), 3, 16)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("compression", ["jpeg"])
def test_compressions_with_loss(compression: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 30, 90))
    decoded = images.decode(encoded(image, "TIFF", compression=compression), 3, 32)
    assert np.abs(decoded.astype(int) - np.array((200, 30, 90))[:, None, None]).max() <= 4


def test_fax() -> None:
    image = noise(16, 16).convert("1")
    decoded = images.decode(encoded(image, "TIFF", compression="group4"), 1, 16)
    np.testing.assert_array_equal(decoded[0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    samples = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.frombytes("I;16" if kind == "<u2" else "I;16B", (16, 16), samples.astype(kind).tobytes())
    np.testing.assert_array_equal(images.decode(encoded(image, "TIFF"), 1, 16)[0], samples >> 8)


def test_white_may_be_zero_and_samples_may_have_twelve_bits() -> None:
    samples = struct.pack("<256H", *range(0, 65536, 256))
    shown = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(images.decode(hand_made_tiff(samples, 16, bits=16), 1, 16)[0], shown)
    inverted = hand_made_tiff(samples, 16, (262, 3, 1, 0), bits=16)
    np.testing.assert_array_equal(images.decode(inverted, 1, 16)[0], 255 - shown)
    twelve = hand_made_tiff(b"\x80\x01\x00" * 128, 16, bits=12)  # 0x800 and 0x100
    np.testing.assert_array_equal(images.decode(twelve, 1, 16)[0], [[0x80, 0x10] * 8] * 16)


def test_lab_is_shown_in_srgb() -> None:
    decoded = images.decode(encoded(Image.new("LAB", (16, 16), (128, 128, 128)), "TIFF"), 3, 16)
    assert np.abs(decoded.astype(int) - 119).max() <= 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match="save 8 or 16 bits"):
        images.decode(encoded(Image.new(mode, (16, 16)), "TIFF"), 3, 16)


def test_the_first_page_is_taken() -> None:
    pages = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(images.decode(data, 3, 16)[:, 0, 0], (255, 0, 0))


@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_is_undone_once(value: int) -> None:
    image, exif = noise(16, 16), Image.Exif()
    exif[0x0112] = value
    expected = images.decode(encoded(image, exif=exif), 3, 16)
    np.testing.assert_array_equal(images.decode(encoded(image, "TIFF", exif=exif), 3, 16), expected)


def test_metadata_never_decides_whether_pixels_can_be_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    broken = hand_made_tiff(
        pixels.tobytes(),
        16,
        (271, FRACTION, 1, 8),  # the camera's maker, which is text, as a fraction
        (282, TEXT, 1, 65),  # the resolution as text
        (296, 3, 1, 3),
        (305, TEXT, 2**31, 2**31),  # a text outside of the file
        (700, 3, 9, 8),  # XMP as numbers
        (34665, 4, 1, 9),  # EXIF and GPS in the middle of the pixels
        (34853, 4, 1, 2**31),
        (50000, 77, 1, 1),  # a type that does not exist
    )
    np.testing.assert_array_equal(images.decode(broken, 1, 16)[0], pixels)


def test_a_tile_larger_than_any_image_is_refused_before_it_is_decoded() -> None:
    tiled = [(322, 4, 1, 60000), (323, 4, 1, 60000), (324, 4, 1, 8), (325, 4, 1, 256)]
    with pytest.raises(DataError, match="60000 x 60000 pixels"):
        images.open_image(hand_made_tiff(bytes(256), 16, *tiled))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # Pillow's about the damage
@pytest.mark.parametrize(
    "data", [b"II*\0\x08\0\0\0", b"II*\0\0\0\0\0", b"MM\0*" + b"\xff" * 99, b"II+\0" + b"\xff" * 99]
)
def test_a_directory_that_is_not_there_is_damage(data: bytes) -> None:
    with pytest.raises(DataError, match="damaged"):
        images.open_image(data)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_picture_keeps_the_meaning_of_its_samples(orientation: int) -> None:
    white_is_zero, turned = (262, 3, 1, 0), (274, 3, 1, orientation)
    data = hand_made_tiff(struct.pack("<H", 0xF000) * 64, 8, white_is_zero, turned, bits=16)
    assert images.decode(data, 1, 8).max() == 255 - 0xF0


@pytest.mark.parametrize(
    "more",
    [
        [(322, 16, 1, 0), (323, 4, 1, 30_000)],  # 64 bits, which lie elsewhere in the file
        [(322, 4, 2, 0), (323, 4, 1, 30_000)],
        [(322, 4, 1, 30_000), (322, 4, 1, 16), (323, 4, 1, 30_000), (323, 4, 1, 16)],
        [(323, 4, 1, 16)],
    ],
)
def test_tiles_of_unclear_size_are_refused(more: list[tuple[int, int, int, int]]) -> None:
    """The decoder would fill each tile whole: 900 MB from a file of 875 kB."""
    with pytest.raises(DataError, match="unusual tile size"):
        images.decode(hand_made_tiff(bytes(64), 8, *more), 1, 8)

from __future__ import annotations

import resource
import struct
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.formats.table import NAMES
from tests.tasks.vision.data.picture_files import case, chunk, encoded, hand_made_tiff, noise

KINDS = ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"]


def declared_png(width: int, height: int, colour: int = 0, data: bytes = b"\0") -> bytes:
    """A PNG whose header promises what is not there: pixels, or the palette of colour type 3."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    """The file with other numbers in its header."""
    new = struct.pack(form, *values)
    return data[:at] + new + data[at + len(new) :]


def test_pixels_of_the_right_size_are_kept_exactly() -> None:
    image = noise(16, 16)
    decoded = images.decode(encoded(image), 3, 16)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_pixels_are_decoded_as_they_were(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 12, 12), dtype=np.uint8)
    np.testing.assert_array_equal(images.decode(images.encode(pixels), channels, 12), pixels)


def test_grey_has_one_channel() -> None:
    assert images.decode(encoded(noise(16, 16)), 1, 16).shape == (1, 16, 16)


def test_other_channel_counts_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="channels=4"):
        images.decode(encoded(noise(16, 16)), 4, 16)


@pytest.mark.parametrize("shape", [(40, 20), (20, 40)])
def test_the_centre_square_is_taken(shape: tuple[int, int]) -> None:
    image = Image.new("RGB", shape, "red")
    left, top = (shape[0] - 20) // 2, (shape[1] - 20) // 2
    image.paste("blue", (left, top, left + 20, top + 20))
    decoded = images.decode(encoded(image), 3, 20)
    np.testing.assert_array_equal(decoded[:, 0, 0], [0, 0, 255])
    assert (decoded == decoded[:, :1, :1]).all()


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    decoded = images.decode(encoded(Image.fromarray(stripes)), 1, 8)
    assert np.abs(decoded.astype(int) - 127).max() <= 6


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    large = noise(8, 8).resize((800, 800), Image.Resampling.BICUBIC)
    fast = images.decode(encoded(large, "JPEG", quality=95), 3, 16)
    exact = np.asarray(large.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(fast.astype(int) - exact).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_honoured(kind: str) -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded = images.decode(encoded(image, kind, exif=exif), 1, 16)[0]
    assert decoded[:, 8:].min() > 200  # bright on the right
    assert decoded[:, :8].max() < 50


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((16, 16), 0x8000, np.uint16))
    assert (images.decode(encoded(image), 1, 16) == 0x80).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    if mode == "P":
        data = encoded(Image.new("P", (16, 16), 0), transparency=0)
    else:
        data = encoded(Image.new(mode, (16, 16), (0,) * len(mode)))
    assert (images.decode(data, 3, 16) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_colour_model_becomes_rgb(mode: str) -> None:
    data = encoded(noise(16, 16).convert(mode), "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    assert images.decode(data, 3, 16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"not an image", f"not a {NAMES} image"),
        (encoded(noise(16, 16), "JPEG2000"), f"not a {NAMES} image"),
        (encoded(noise(16, 16), "TGA"), f"not a {NAMES} image"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut short"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", f"not a {NAMES} image"),
        (b"%PDF-1.7", f"not a {NAMES} image"),
    ],
)
def test_what_is_no_image_is_refused_with_the_formats_that_work(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        images.decode(data, 3, 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused_wherever_it_is_cut(kind: str, share: float) -> None:
    data = case("photo.heic") if kind == "HEIC" else encoded(noise(64, 64), kind)
    with pytest.raises(DataError):
        images.decode(data[: int(len(data) * share)], 3, 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # Pillow's about the damage
def test_no_damaged_byte_escapes_as_another_error(kind: str) -> None:
    data = bytearray(case("photo.heic") if kind == "HEIC" else encoded(noise(24, 24), kind))
    generator = np.random.default_rng(0)
    for position in generator.integers(0, len(data), 300):
        damaged = data.copy()
        damaged[position] ^= int(generator.integers(1, 256))
        with suppress(DataError):
            assert images.decode(bytes(damaged), 3, 16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (2**31 - 1, 1), (9000, 9000), (2**31 - 1, 2**31 - 1)]
)
def test_absurd_declared_dimensions_are_refused_before_memory_is_taken(width: int, height: int) -> None:
    with pytest.raises(DataError, match="pixels"):
        images.open_image(declared_png(width, height))


GIF, BMP = (encoded(noise(16, 16), kind) for kind in ("GIF", "BMP"))
ANIMATED = encoded(noise(16, 16), "WebP", save_all=True, append_images=[noise(16, 16, 1)])


@pytest.mark.parametrize(
    "data",
    [
        patched(GIF, 6, "<HH", 65535, 65535),
        patched(BMP, 18, "<ii", 50000, 50000),
        hand_made_tiff(bytes(256), 16, (256, 4, 1, 50000), (257, 4, 1, 50000)),
        patched(encoded(noise(16, 16), "WebP", lossless=True), 21, "<I", 0x0FFFFFFF),
        patched(ANIMATED, 24, "<BBBBBB", 255, 63, 0, 255, 63, 0),
    ],
    ids=["GIF", "BMP", "TIFF", "WebP", "animated WebP"],
)
def test_every_format_is_refused_before_memory_is_taken(data: bytes) -> None:
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with pytest.raises(DataError, match="pixels"):
            images.open_image(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused() -> None:
    data = patched(GIF, GIF.index(b",\0\0\0\0\x10\0\x10\0") + 5, "<HH", 65535, 65535)
    with pytest.raises(DataError, match="pixels"):
        images.open_image(data)


def test_a_palette_image_without_its_palette_is_refused() -> None:
    with pytest.raises(DataError, match="damaged"):
        images.decode(declared_png(16, 16, colour=3, data=bytes(17 * 16)), 3, 16)


def test_a_strip_of_many_pixels_is_cut_before_it_is_resized() -> None:
    strip = encoded(Image.new("L", (1_000_000, 1), 7))
    assert (images.decode(strip, 1, 512) == 7).all()


@pytest.mark.parametrize("kind", ["GIF", "WebP"])
def test_of_an_animation_the_first_frame_is_decoded_and_no_other(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    decoded = images.decode(data, 3, 16)
    assert np.abs(decoded[:, 8, 8].astype(int) - (255, 0, 0)).max() <= 3
    np.testing.assert_array_equal(images.decode(data[: len(data) - 10] + bytes(10), 3, 16), decoded)


@pytest.mark.parametrize("kind", ["GIF", "WebP", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_the_other_formats_are_as_pillow_shows_them(kind: str, mode: str) -> None:
    data = encoded(noise(16, 16).convert(mode), kind, **({"lossless": True} if kind == "WebP" else {}))
    shown = Image.open(BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(images.decode(data, 3, 16), np.asarray(shown).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "WebP"])
def test_transparency_of_the_other_formats_shows_white(kind: str) -> None:
    data = encoded(Image.new("RGBA", (16, 16)), kind)
    assert (images.decode(data, 3, 16) == 255).all()


@pytest.mark.parametrize("where", ["open", "load"])
@pytest.mark.parametrize(
    "raised", [AttributeError("x"), SystemError("x"), KeyError(1), UnicodeError("x"), ValueError("x")]
)
def test_whatever_a_decoder_raises_is_damage_of_the_one_image(
    where: str, raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(PngImageFile, "_open" if where == "open" else "load_prepare", fail)
    with pytest.raises(DataError, match="damaged"):
        images.decode(encoded(noise(16, 16)), 3, 16)


def test_want_of_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImageFile, "load_prepare", fail)
    with pytest.raises(MemoryError):
        images.decode(encoded(noise(16, 16)), 3, 16)


def test_the_header_alone_tells_the_size() -> None:
    assert images.open_image(encoded(noise(31, 17))).size == (31, 17)

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.formats import png
from tests.tasks.vision.data import profiles
from tests.tasks.vision.data.picture_files import case, chunk, encoded, hand_made_png, noise, with_chunks

MEBIBYTE = 2**20


def bomb(mebibytes: int) -> bytes:
    return zlib.compress(bytes(mebibytes * MEBIBYTE), 9)


BROKEN_METADATA = {
    "zTXt of 64 MiB": chunk(b"zTXt", b"Comment\0\0" + bomb(64)),
    "XMP of 64 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb(64)),
    "EXIF text of 64 MiB": chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb(64)),
    "profile of 64 MiB": chunk(b"iCCP", b"bomb\0\0" + bomb(64)),
    "profile that is not compressed": chunk(b"iCCP", b"name\0\0plain"),
    "profile without content": chunk(b"iCCP", b""),
    "unknown compression": chunk(b"zTXt", b"Comment\0\7xyz"),
    "EXIF text that is no hex": chunk(b"tEXt", b"Raw profile type exif\0\n\n\n\xfe\xff"),
    "empty chunks": b"".join(
        chunk(kind, b"") for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"gAMA", b"cHRM")
    ),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "transparent colour cut short": chunk(b"tRNS", b"\0"),
    "animation without frames": chunk(b"acTL", b"\0\0\0\1") + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("name", ["png_bad_text_crc.png", "png_itxt_xmp_2mb.png", "png_ztxt_2mb.png"])
def test_large_or_damaged_text_does_not_matter(name: str) -> None:
    means = images.decode(case(name), 3, 64).mean(axis=(1, 2))
    np.testing.assert_allclose(means, (146, 40, 40), atol=1)


@pytest.mark.parametrize("name", ["gray2_trns.png", "gray16_trns.png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_grey_is_white(name: str, channels: int) -> None:
    assert (images.decode(case(name), channels, 16) == 255).all()


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_metadata_never_decides_whether_pixels_can_be_read(name: str) -> None:
    image = noise(16, 16)
    broken = with_chunks(encoded(image), BROKEN_METADATA[name])
    tracemalloc.start()
    try:
        decoded = images.decode(broken, 3, 16)
        assert tracemalloc.get_traced_memory()[1] < 16 * MEBIBYTE
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(decoded, np.asarray(image).transpose(2, 0, 1))


def test_many_texts_are_inflated_once_and_many_chunks_are_read_once() -> None:
    image = noise(16, 16)
    texts = chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb(3)) * 2000  # 6 GiB of text in 6 MB
    broken = with_chunks(encoded(image), texts, chunk(b"tEXt", b"") * 100_000)
    np.testing.assert_array_equal(images.decode(broken, 3, 16), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("end", [chunk(b"tEXt", b"a\0" + bytes(99))[:50], b"\0\0\0\0\xff\xff\xff\xff", b"\0\0"])
def test_what_follows_the_pixels_may_be_cut_short(end: bytes) -> None:
    image = noise(16, 16)
    data = encoded(image).removesuffix(chunk(b"IEND", b"")) + end
    np.testing.assert_array_equal(images.decode(data, 3, 16), np.asarray(image).transpose(2, 0, 1))


def test_a_wrong_checksum_of_the_header_is_named() -> None:
    data = bytearray(encoded(noise(16, 16)))
    data[29] ^= 1
    with pytest.raises(DataError, match=r"damaged .*checksum in b'IHDR'"):
        images.decode(bytes(data), 3, 16)


def test_a_file_without_metadata_is_not_copied() -> None:
    data = encoded(noise(16, 16))
    assert png.strip(data).data is data


@pytest.mark.parametrize(
    ("bits", "colour", "row", "shown"),
    [
        (1, 0, b"\xaa", [255, 0] * 4),
        (2, 0, b"\x1b\x1b", [0, 85, 170, 255] * 2),
        (4, 0, b"\x01\x23\xcd\xef", [0, 17, 34, 51, 204, 221, 238, 255]),
        (8, 0, bytes(range(8)), range(8)),
        (16, 0, struct.pack(">8H", *range(0, 65536, 8192)), range(0, 256, 32)),
        (1, 3, b"\xaa", [200, 10] * 4),
        (2, 3, b"\x11\x11", [10, 200] * 4),
        (4, 3, b"\x01\x01\x01\x01", [10, 200] * 4),
        (8, 3, bytes((0, 1)) * 4, [10, 200] * 4),
        (8, 2, bytes((5, 5, 5)) * 8, [5] * 8),
        (16, 2, b"\x80\xff" * 24, [128] * 8),
        (8, 4, bytes((7, 255)) * 8, [7] * 8),
        (16, 4, b"\x07\x00\xff\xff" * 8, [7] * 8),
        (8, 6, bytes((9, 9, 9, 255)) * 8, [9] * 8),
        (16, 6, b"\x09\x00\x09\x00\x09\x00\xff\xff" * 8, [9] * 8),
    ],
)
def test_every_depth_and_colour_type(bits: int, colour: int, row: bytes, shown: list[int]) -> None:
    palette = [chunk(b"PLTE", bytes((10, 10, 10, 200, 200, 200)))] if colour == 3 else []
    decoded = images.decode(hand_made_png(bits, colour, row * 8, *palette), 1, 8)
    np.testing.assert_array_equal(decoded[0], [list(shown)] * 8)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "shown"),
    [
        (1, 0, b"\xaa", b"\0\0", [255] * 8),
        (2, 0, b"\x1b\x1b", b"\0\2", [0, 85, 255, 255] * 2),
        (2, 0, b"\x1b\x1b", b"\xff\xfe", [0, 85, 255, 255] * 2),  # the high bits do not count
        (4, 0, b"\x11\x23\xcd\xef", b"\0\1", [255, 255, 34, 51, 204, 221, 238, 255]),
        (8, 0, bytes(range(8)), b"\0\3", [0, 1, 2, 255, 4, 5, 6, 7]),
        (16, 0, struct.pack(">8H", 256, 257, *[512] * 6), b"\1\1", [1, 255, *[2] * 6]),
        (8, 2, bytes((5, 5, 5, 6, 6, 6)) * 4, b"\0\5\0\5\0\5", [255, 6] * 4),
        (16, 2, b"\x05\x07" * 24, b"\5\7\5\7\5\7", [255] * 8),
        (8, 3, bytes((0, 1)) * 4, b"\xff\0", [10, 255] * 4),
        (8, 3, bytes((0, 1)) * 4, bytes(300), [10, 200] * 4),  # longer than any palette: does not count
    ],
)
def test_every_transparent_colour(bits: int, colour: int, row: bytes, transparent: bytes, shown: list[int]) -> None:
    palette = [chunk(b"PLTE", bytes((10, 10, 10, 200, 200, 200)))] if colour == 3 else []
    data = hand_made_png(bits, colour, row * 8, *palette, chunk(b"tRNS", transparent))
    np.testing.assert_array_equal(images.decode(data, 1, 8)[0], [shown] * 8)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    assert b"acTL" in data
    np.testing.assert_array_equal(images.decode(data, 3, 16)[:, 0, 0], (255, 0, 0))


def test_an_animation_whose_frames_are_damaged_still_has_its_first() -> None:
    frames = [noise(16, 16, seed) for seed in range(3)]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    at = data.index(b"fdAT")
    data = data[:at] + bytes(len(data) - at)
    np.testing.assert_array_equal(images.decode(data, 3, 16), np.asarray(frames[0]).transpose(2, 0, 1))


def test_a_profile_is_found() -> None:
    assert png.strip(encoded(noise(8, 8), icc_profile=profiles.rgb())).icc == profiles.rgb()


def test_more_chunks_than_any_picture_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of them would keep the service busy for minutes."""
    monkeypatch.setattr("tasks.vision.data.formats.png._MAX_CHUNKS", 20)
    with pytest.raises(DataError, match="over 20 chunks"):
        images.decode(with_chunks(encoded(noise(8, 8)), *[chunk(b"tEXt", b"a\0b")] * 20), 3, 8)

"""EXIF orientation, whatever else is wrong in the metadata of a picture."""

from __future__ import annotations

import struct
import tarfile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.vision.data import images
from tasks.vision.data.formats.orientation import orientation, upright
from tests.tasks.vision.data.picture_files import (
    CASES,
    case,
    chunk,
    encoded,
    noise,
    with_chunks,
    with_exif,
    with_segment,
)

MUTATIONS = 400
SCENE = noise(4, 4).resize((16, 16), Image.Resampling.BICUBIC)


def exif_block(value: int = 6) -> bytes:
    """EXIF as a camera writes it: text, fractions, a sub-directory and a place; without the prefix `Exif`."""
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    exif[0x0110] = "EOS 5D"
    exif[0x0112] = value
    exif[0x011A] = 72.0
    exif[0x0128] = 2
    exif[0x0131] = "software"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:05:06 07:08:09", 0x927C: b"maker" * 9})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif.tobytes().removeprefix(b"Exif\0\0")


def mutated(generator: np.random.Generator) -> tuple[bytes, bool]:
    """A damaged block, and whether its orientation can still be read: header, count and its entry are whole."""
    block = bytearray(exif_block())
    [entry] = [
        at for at in range(10, len(block) - 12, 12) if block[at : at + 4] in (b"\x01\x12\0\x03", b"\x12\x01\3\0")
    ]
    needed = {*range(10), *range(entry, entry + 10)}
    if generator.random() < 0.2:
        cut = int(generator.integers(0, len(block)))
        return bytes(block[:cut]), cut >= entry + 12
    whole = True
    for at in generator.integers(0, len(block), generator.integers(1, 20)).tolist():
        tag = (at - 10) % 12 in (0, 1) and at < entry + 240  # may become a second orientation
        if tag or (whole and at in needed and generator.random() < 0.9):
            continue
        block[at] = int(generator.integers(0, 256))
        whole &= at not in needed
    return bytes(block), whole


def jpeg(block: bytes) -> bytes:
    return with_exif(encoded(SCENE, "JPEG", quality=95), block)


def png(block: bytes) -> bytes:
    return with_chunks(encoded(SCENE), chunk(b"eXIf", block))


def webp(block: bytes) -> bytes:
    return encoded(SCENE, "WebP", lossless=True, exif=block)


def turned(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The pixels in all eight orientations."""
    rotated = [np.rot90(pixels, turns, (1, 2)) for turns in range(4)]
    return rotated + [one[:, :, ::-1] for one in rotated]


@pytest.mark.parametrize("make", [jpeg, png, webp])
def test_odd_exif_never_refuses_a_whole_picture(make: object) -> None:
    assert callable(make)
    generator = np.random.default_rng(15)
    plain = images.decode(make(exif_block(1)), 3, 16)
    right = 0
    for _ in range(MUTATIONS):
        block, readable = mutated(generator)
        decoded = images.decode(make(block), 3, 16)
        if readable:
            np.testing.assert_array_equal(decoded, np.rot90(plain, -1, (1, 2)))
            right += 1
        else:
            assert any(np.array_equal(decoded, one) for one in turned(plain))
    assert right > MUTATIONS / 3


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("make", [jpeg, png, webp])
def test_every_orientation_is_undone_as_pillow_does(make: object, value: int) -> None:
    assert callable(make)
    plain = Image.fromarray(images.decode(make(exif_block(1)), 3, 16).transpose(1, 2, 0))
    plain.getexif()[0x0112] = value
    expected = np.asarray(ImageOps.exif_transpose(plain)).transpose(2, 0, 1)
    np.testing.assert_array_equal(images.decode(make(exif_block(value)), 3, 16), expected)


@pytest.mark.parametrize("name", ["exif_make_rational_orient6.jpg", "exif_xres_minus1_0_orient6.jpg"])
def test_pictures_with_odd_exif_are_upright(name: str) -> None:
    flat = images.decode(case("exif_make_rational_orient1.jpg"), 3, 48)
    opened = images.open_image(case(name))
    assert opened.size == (64, 48)
    opened.load()
    assert upright(opened, opened.info["orientation"]).size == (48, 64)
    np.testing.assert_array_equal(images.decode(case(name), 3, 48), np.rot90(flat, -1, (1, 2)))


def test_none_of_the_pictures_that_stopped_a_run_is_refused() -> None:
    with tarfile.open(CASES / "exif_crashes_run.tar.gz") as archive:
        files = [member for member in archive if member.isfile()]
        assert len(files) == 41
        for member in files:
            file = archive.extractfile(member)
            assert file is not None
            assert images.decode(file.read(), 3, 32).shape == (3, 32, 32)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    assert orientation(b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 274, 3, 1, value, 0, 0)) == 1


def test_the_prefix_may_be_missing_or_doubled() -> None:
    assert [orientation(prefix + exif_block()) for prefix in (b"", b"Exif\0\0", b"Exif\0\0" * 2)] == [6, 6, 6]


def test_xmp_counts_where_exif_does_not_say() -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    assert orientation(None, xmp) == 6
    assert orientation(b"broken", b"<tiff:Orientation>8</tiff:Orientation>") == 8
    assert orientation(exif_block(3), xmp) == 3
    assert orientation("not bytes", ("nor", "these")) == 1


def test_xmp_of_a_jpeg_and_text_of_a_png_are_read() -> None:
    packet = b'<rdf:Description tiff:Orientation="6"/>'
    plain = images.decode(encoded(SCENE, "JPEG", quality=95), 3, 16)
    by_xmp = with_segment(encoded(SCENE, "JPEG", quality=95), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    np.testing.assert_array_equal(images.decode(by_xmp, 3, 16), np.rot90(plain, -1, (1, 2)))
    for content in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  9\n" + exif_block().hex().encode() + b"\n"),
    ):
        decoded = images.decode(with_chunks(encoded(SCENE), content), 3, 16)
        np.testing.assert_array_equal(decoded, np.rot90(np.asarray(SCENE).transpose(2, 0, 1), -1, (1, 2)))

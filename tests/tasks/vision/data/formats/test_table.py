from __future__ import annotations

import pytest

from tasks.vision.data.formats import table
from tests.tasks.vision.data.picture_files import case, encoded, noise


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "GIF", "BMP", "DIB", "TIFF", "AVIF"])
def test_the_content_tells_the_format(kind: str) -> None:
    found = table.recognise(encoded(noise(16, 16), kind))
    assert (found.name if found else None) == (None if kind == "DIB" else kind)  # DIB is a BMP without its header


def test_a_photo_of_a_phone_is_heic() -> None:
    found = table.recognise(case("photo.heic"))
    assert found is not None
    assert found.name == "HEIC"


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        ((b"heic",), "HEIC"),
        ((b"mif1", b"miaf", b"heic"), "HEIC"),
        ((b"mif1", b"avif"), "AVIF"),
        ((b"avis", b"msf1"), "AVIF"),
        ((b"isom", b"mp42"), None),
    ],
)
def test_any_brand_may_name_the_codec(brands: tuple[bytes, ...], name: str | None) -> None:
    first, *others = brands
    data = b"\0\0\0\x20ftyp" + first + bytes(4) + b"".join(others) + b"\0\0\0\0meta"
    found = table.recognise(data)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("data", [b"", b"BM", b"BMW made this car in 1990 and", b"RIFF....WAVE", b"II*", b"%PDF-1.7"])
def test_what_only_looks_like_an_image_is_none(data: bytes) -> None:
    assert table.recognise(data) is None


def test_suffixes_and_names_come_from_the_table() -> None:
    assert table.NAMES == "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
    assert {".jpg", ".jfif", ".heic", ".tif"} < set(table.SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in table.SUFFIXES)

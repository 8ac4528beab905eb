from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.vision.data import images, square
from tests.tasks.vision.data.picture_files import encoded, noise

SIZES = [(90, 200), (200, 90), (150, 150), (3, 5000), (5000, 3), (140, 90), (90, 140)]


def files(width: int, height: int) -> dict[str, bytes]:
    """The same picture in the forms that are converted differently."""
    picture = noise(width, height)
    alpha = picture.copy()
    alpha.putalpha(noise(width, height, 1).convert("L"))
    grey = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (height, width), dtype=np.uint16))
    found = {
        "grey": encoded(picture.convert("L")),
        "grey with transparency": encoded(alpha.convert("LA")),
        "palette": encoded(picture.convert("P"), transparency=3),
        "one bit": encoded(picture.convert("1")),
        "16 bits": encoded(grey),
        "16 bits TIFF": encoded(grey, "TIFF"),
        "GIF": encoded(picture.convert("P"), "GIF"),
        "CMYK": encoded(picture.convert("CMYK"), "TIFF"),
        "LAB": encoded(Image.frombytes("LAB", picture.size, picture.tobytes()), "TIFF"),
    }
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        found[f"transparent, orientation {value}"] = encoded(alpha, exif=exif)
        found[f"orientation {value}"] = encoded(picture, "JPEG", exif=exif)
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_strips_give_the_same_pixels_as_the_whole_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in files(*size).items():
        for channels, side in ((3, 32), (1, 8), (3, 100)):
            whole = images.decode(data, channels, side)
            with monkeypatch.context() as patch:
                patch.setattr(square, "STRIP_PIXELS", 1000)
                np.testing.assert_array_equal(images.decode(data, channels, side), whole, f"{name}, {channels}, {side}")


@pytest.mark.parametrize("size", [(40, 3000), (3000, 40)], ids=str)
def test_of_a_very_long_image_a_window_is_enough(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(*size).convert("RGBA"))
    whole = images.decode(data, 3, 16)
    monkeypatch.setattr(square, "STRIP_PIXELS", 1000)
    monkeypatch.setattr(square, "MAX_COORDINATE", 500)
    np.testing.assert_array_equal(images.decode(data, 3, 16), whole)

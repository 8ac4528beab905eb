"""What decoding takes, measured in a process of its own for each file, beside what is expected from the header."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from tests.tasks.vision.data.picture_files import encoded, heic_grid, noise

SIDE = 3000
PROGRAM = """
import sys
from pathlib import Path
from tasks.vision.data import images
from tasks.vision.data.formats import memory

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

small, file = sys.argv[1:]
images.decode(Path(small).read_bytes(), 3, 8)  # what is loaded once
image = images.open_image(Path(file).read_bytes())
before = peak()
images.pixels(image, 3, 32)
print(memory.needed(image, 128), peak() - before)
"""


def large(kind: str, mode: str = "RGB", **options: object) -> bytes:
    return encoded(noise(SIDE // 10, SIDE // 10).resize((SIDE, SIDE)).convert(mode), kind, **options)


def one_strip() -> bytes:
    size, TiffImagePlugin.STRIP_SIZE = TiffImagePlugin.STRIP_SIZE, 2**30
    try:
        return encoded(Image.new("RGB", (SIDE, SIDE)), "TIFF", compression="tiff_lzw")
    finally:
        TiffImagePlugin.STRIP_SIZE = size


FILES = {
    "png": lambda: large("PNG", compress_level=1),
    "png with transparency": lambda: encoded(Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 4)), compress_level=1),
    "png of 16 bits": lambda: encoded(Image.new("I;16", (SIDE, SIDE), 777), compress_level=1),
    "grey png": lambda: large("PNG", "L", compress_level=1),
    "jpeg": lambda: large("JPEG"),
    "progressive jpeg": lambda: large("JPEG", progressive=True),
    "progressive jpeg, 4:4:4": lambda: large("JPEG", progressive=True, subsampling=0),
    "progressive jpeg, cmyk": lambda: large("JPEG", "CMYK", progressive=True),
    "webp": lambda: large("WEBP", method=0),
    "webp without loss": lambda: large("WEBP", lossless=True, method=0, quality=0),
    "gif": lambda: large("GIF", "P"),
    "bmp": lambda: large("BMP"),
    "tiff": lambda: large("TIFF", compression="tiff_lzw"),
    "tiff in one strip": one_strip,
    "avif": lambda: large("AVIF", speed=10),
    "heic": lambda: heic_grid(30, 33),
}


@pytest.mark.parametrize("name", FILES)
def test_decoding_takes_no_more_than_the_header_says(name: str, tmp_path: Path) -> None:
    data = FILES[name]()
    small = {"avif": encoded(noise(8, 8), "AVIF"), "heic": heic_grid(1, 1)}.get(name, encoded(noise(8, 8)))
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "file").write_bytes(data)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "small"), str(tmp_path / "file")]
    expected, taken = map(int, subprocess.check_output(command).split())
    assert expected / 4 - 16 * 2**20 < taken < expected + 4 * 2**20, f"{expected / 2**20:.0f} {taken / 2**20:.0f} MiB"

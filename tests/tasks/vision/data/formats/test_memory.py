"""What decoding takes, measured in a process of its own for each file, beside what is expected from the header."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from tests.tasks.vision.data.picture_files import encoded, heic_grid, noise

SIDE = 3000
PROGRAM = """
import json, os, sys
from pathlib import Path
from tasks.vision.data import images
from tasks.vision.data.formats import memory

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

def measure(small, file):
    images.decode(Path(small).read_bytes(), 3, 8)  # what is loaded once
    image = images.open_image(Path(file).read_bytes())
    before = peak()
    images.pixels(image, 3, 32)
    print(memory.needed(image, 128), peak() - before, flush=True)

for line in sys.stdin:
    child = os.fork()  # a process of its own, without another import of everything
    if not child:
        measure(*json.loads(line))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("failed", flush=True)
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Callable[[Path, Path], tuple[int, int]]]:
    """Tells what decoding a file is expected to take, and what it takes, after a small one of the same kind."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def measure(small: Path, file: Path) -> tuple[int, int]:
            process.stdin.write(json.dumps([str(small), str(file)]) + "\n")
            process.stdin.flush()
            expected, taken = map(int, process.stdout.readline().split())
            return expected, taken

        yield measure
        process.stdin.close()


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
def test_decoding_takes_no_more_than_the_header_says(
    measured: Callable[[Path, Path], tuple[int, int]], name: str, tmp_path: Path
) -> None:
    data = FILES[name]()
    small = {"avif": encoded(noise(8, 8), "AVIF"), "heic": heic_grid(1, 1)}.get(name, encoded(noise(8, 8)))
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "file").write_bytes(data)
    expected, taken = measured(tmp_path / "small", tmp_path / "file")
    assert expected / 4 - 16 * 2**20 < taken < expected + 4 * 2**20, f"{expected / 2**20:.0f} {taken / 2**20:.0f} MiB"

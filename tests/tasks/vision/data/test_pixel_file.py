from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.errors import UnavailableError
from tasks.vision.data import pixel_file
from tasks.vision.data.pixel_file import PixelFile, Stacked

SHAPE = (3, 8, 8)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("expected", [0, 1, 100, 2000])
def test_images_are_given_back_whatever_thread_added_them(expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_file, "SEGMENT_BYTES", 50 * 3 * 8 * 8)
    file, images = PixelFile(expected, SHAPE), noise(2000)
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(file.add, images))
    del file
    np.testing.assert_array_equal(Stacked(kept)[:], images)


def test_a_large_file_takes_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each segment takes one, and a process may have few."""
    monkeypatch.setattr(pixel_file, "SEGMENT_BYTES", 3 * 8 * 8)
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = PixelFile(2000, SHAPE)
    kept = list(map(file.add, noise(2000)))
    assert len(kept) == 2000
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= pixel_file.SEGMENTS + 3


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UnavailableError, match=r"has no room for 4,096 more bytes of images \(.*No space left"):
        PixelFile(3, SHAPE).add(noise(1)[0])


def test_a_stack_is_read_like_an_array() -> None:
    images = noise(5)
    stack = Stacked(list(images))
    assert (stack.shape, stack.dtype, stack.nbytes, len(stack)) == (images.shape, np.uint8, images.nbytes, 5)
    for index in (2, np.int64(-1), slice(1, 4), slice(9, 12), [4, 0, 4], np.array([1, 3])):
        np.testing.assert_array_equal(stack[index], images[index])


PROGRAM = """
import resource, sys, tempfile
from pathlib import Path
from tasks.vision.data import bronze, near_duplicates, silver, splits
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.process_memory import data_bytes
from tasks.vision.data.shards import reader, writer
from tasks.vision.data.sources import open_source
import imagehash
from PIL import Image
imagehash.phash(Image.new("L", (32, 32)))  # what it imports is not counted
shaping = Shaping("image_folder", 3, 384, 0.15, 0.2, 0)
most = data_bytes() + 192 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
with open_source("image_folder", sys.argv[1], None) as source:
    records, _ = silver.clean(bronze.read(source, shaping))
gold = splits.split(records, source.listing.classes, shaping, "f" * 64, has_test=False)
print(len(near_duplicates.find(gold)) >= 0)
with tempfile.TemporaryDirectory() as folder:
    writer.save(gold, Path(folder), closed=Path.unlink)
print(gold.nbytes // 2**20)
"""


def test_gold_of_more_pixels_than_memory_is_made(tmp_path: Path) -> None:
    """Of 384 MiB, in 192 MiB of memory more than the libraries take."""
    for number in range(912):
        file = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(file)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "pets")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 380

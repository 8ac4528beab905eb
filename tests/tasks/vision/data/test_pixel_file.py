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

from tasks.errors import DataError, UnavailableError
from tasks.vision.data.pixel_file import FiledImages, PixelFile

SHAPE = (3, 8, 8)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def test_images_are_given_back_whatever_thread_added_them() -> None:
    file, images = PixelFile(SHAPE), noise(2000)
    with ThreadPoolExecutor(4) as pool:
        filed = list(pool.map(file.add, images))
    taken = FiledImages(file, np.array([image.position for image in filed]))
    del file
    np.testing.assert_array_equal(taken[:], images)
    np.testing.assert_array_equal(filed[7].read(), images[7])


def test_they_are_read_like_an_array() -> None:
    file, images = PixelFile(SHAPE), noise(5)
    file.extend(images)
    filed = FiledImages(file, np.array([3, 1, 4, 0, 2]))
    expected = images[[3, 1, 4, 0, 2]]
    assert (filed.shape, filed.dtype, filed.nbytes, len(filed)) == (images.shape, np.uint8, images.nbytes, 5)
    for index in (2, np.int64(-1), slice(1, 4), slice(9, 12), [4, 0, 4], np.array([1, 3]), np.array([-1, 2])):
        np.testing.assert_array_equal(filed[index], expected[index])
    with pytest.raises(IndexError, match="an image of 2 to 5, and there are 5"):
        filed[[2, 5]]


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = PixelFile(SHAPE)
    file.add(noise(1)[0])
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match=r"no room for an image after 1 others of 192 bytes \(.*No space left"):
        file.add(noise(1)[0])


def test_a_file_that_ends_early_is_no_image() -> None:
    file = PixelFile(SHAPE)
    file.add(noise(1)[0])
    with pytest.raises(DataError, match="ends early"):
        file.read(np.array([0, 1]))


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
most = data_bytes() + 256 * 2**20
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
    """Of 384 MiB, in 256 MiB more than the libraries take; it needs up to 192, by which of its threads are busy."""
    for number in range(912):
        file = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(file)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "pets")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 380

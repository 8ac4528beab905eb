from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.vision.data import decoded_parts
from tasks.vision.data.decoded_images import DecodedImages
from tasks.vision.data.decoded_parts import PartWriter, restore, rows_of
from tasks.vision.data.pixel_file import PixelFile
from tests.waiting import until

SHAPE = (3, 8, 8)
EACH = 3 * 8 * 8
IMAGES = np.random.default_rng(0).integers(0, 256, (100, *SHAPE), dtype=np.uint8)
OF = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(len(IMAGES))]
PIXELS = [hashlib.sha256(image.tobytes()).digest() for image in IMAGES]


class Folder:
    """Parts in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def names(self) -> list[str]:
        return [path.name for path in sorted(self.path.iterdir())]

    def fetch(self, name: str, folder: Path) -> Path:
        copy = folder / name
        copy.write_bytes((self.path / name).read_bytes())
        return copy

    def store(self, part: Path, sha256: str) -> None:
        assert self.open.wait(60)
        assert hashlib.sha256(part.read_bytes()).hexdigest() == sha256
        self.stored.append(sha256)
        part.rename(self.path / f"{sha256}.npy")


@pytest.fixture(autouse=True)
def ten_in_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_parts, "PART_BYTES", 10 * EACH + 5)


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    (tmp_path / "parts").mkdir()
    return Folder(tmp_path / "parts")


def write(store: Folder, numbers: Iterator[int] | range, threads: int = 1, file: PixelFile | None = None) -> PixelFile:
    file = file or PixelFile(SHAPE)
    with PartWriter(store, file, len(IMAGES)) as parts, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda number: parts.add(file.add(IMAGES[number]), OF[number], PIXELS[number]), numbers))
    return file


def restored(store: Folder, file: PixelFile | None = None) -> DecodedImages:
    file = PixelFile(SHAPE) if file is None else file
    found = DecodedImages(file)
    restore(store, found, file)
    return found


def equals(found: DecodedImages, number: int) -> bool:
    """Whether an image is there, with its pixels and their digest."""
    decoded = found.get(OF[number])
    return decoded is not None and np.array_equal(decoded[0].read(), IMAGES[number]) and decoded[1] == PIXELS[number]


@pytest.mark.parametrize("threads", [1, 8])
def test_whole_parts_come_back_whatever_thread_decoded(store: Folder, threads: int) -> None:
    write(store, range(37), threads)
    file = PixelFile(SHAPE)
    found = restored(store, file)
    assert (len(store.stored), len(found), len(file)) == (3, 30, 30)
    assert sum(equals(found, number) for number in range(37)) == 30


def test_numpy_reads_a_part(store: Folder) -> None:
    write(store, range(10))
    (name,) = store.names()
    rows = np.load(store.path / name)
    assert rows.dtype == rows_of(SHAPE)
    np.testing.assert_array_equal(rows["pixels"], IMAGES[:10])
    assert [row.tobytes().hex() for row in rows["sha256"]] == OF[:10]


def test_parts_begin_after_what_was_restored(store: Folder) -> None:
    write(store, range(15))
    file = PixelFile(SHAPE)
    found = restored(store, file)
    write(store, (number for number in range(40) if found.get(OF[number]) is None), file=file)
    assert len(store.stored) == 4
    again = restored(store)
    assert len(again) == 40
    assert all(equals(again, number) for number in range(40))


def test_an_image_in_two_parts_takes_its_room_once(store: Folder) -> None:
    """As after a part that could not be read: the room on the disk is that of all images, and no more."""
    write(store, range(10))
    write(store, range(5, 15))
    file = PixelFile(SHAPE)
    assert (len(restored(store, file)), len(file)) == (15, 15)


def test_decoding_does_not_wait_for_the_store_and_the_end_only_for_what_is_on_its_way(store: Folder) -> None:
    store.open.clear()
    file = PixelFile(SHAPE)
    with PartWriter(store, file, len(IMAGES)) as parts:
        for number in range(100):
            parts.add(file.add(IMAGES[number]), OF[number], PIXELS[number])
        assert store.stored == []
        store.open.set()
        until(lambda: len(store.stored) >= 1)
        store.open.clear()
        threading.Timer(0.2, store.open.set).start()
    assert decoded_parts.TRANSFERS <= len(store.stored) <= 10
    stored = len(store.stored)
    assert len(restored(store)) == 10 * stored


def test_a_signal_waits_for_no_store(store: Folder) -> None:
    store.open.clear()
    file = PixelFile(SHAPE)

    def stopped() -> None:
        with PartWriter(store, file, len(IMAGES)) as parts:
            for number in range(100):
                parts.add(file.add(IMAGES[number]), OF[number], PIXELS[number])
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        stopped()
    assert store.stored == []
    store.open.set()


def test_a_full_disk_leaves_a_part_out_and_says_so_once(
    store: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoded_parts._Hashed, "write", full)
    monkeypatch.setattr(decoded_parts, "TRANSFERS", 1)
    write(store, range(30))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "10 decoded images were not stored for a retry (OSError: [Errno 28] No space left on device); decoding goes on"
    )
    assert store.names() == []


def test_parts_grow_with_the_data_so_that_there_are_few(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_parts, "MOST_PARTS", 2)
    write(store, range(100))
    assert len(store.stored) == 2

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tasks.errors import ChangedError, DataError, SettingsError, UnavailableError
from tasks.files import sha256
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import reader
from tasks.vision.data.shards.cache import ShardCache, Stored
from tasks.vision.data.shards.description import DESCRIPTION, complete, parse
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.data.shards.index import ROW_BYTES
from tasks.vision.data.shards.read_ahead import read_ahead
from tasks.vision.data.shards.writer import save
from tests.small_gold import copying, read, small_gold
from tests.waiting import until

IMAGE = 3 * 8 * 8
SHARD = 128 + 7 * IMAGE
INDEX, FIRST = "train-index.safetensors", "train-00000-of-00015.npy"


@pytest.fixture
def gold() -> Gold:
    return small_gold({"light": ("sun", "", "läm")}, train=100)


@pytest.fixture
def folder(gold: Gold, tmp_path: Path) -> Path:
    save(gold, tmp_path / "gold", shard_bytes=7 * IMAGE)
    return tmp_path / "gold"


def test_images_on_disk_are_those_in_memory(gold: Gold, folder: Path) -> None:
    stay, order = read(folder, most_memory=0).train, np.random.default_rng(0).permutation(100)
    assert isinstance(stay.images, ShardImages)
    memory = read(folder, most_memory=10**6).train.images
    assert isinstance(memory, np.ndarray)
    for index in (5, -1, slice(3, 50), slice(None, None, 13), order, order[:1], [0, 99, 99, -2], np.array([], int)):
        np.testing.assert_array_equal(stay.images[index], memory[index])
    assert (stay.images.shape, stay.images.nbytes, len(stay.images)) == (memory.shape, memory.nbytes, len(memory))
    for index in (100, -101, [0, 100]):
        with pytest.raises(IndexError):
            stay.images[index]


@pytest.mark.parametrize("threads", [1, 4])
def test_reading_ahead_gives_the_batches_in_order_whatever_fits_on_disk(gold: Gold, folder: Path, threads: int) -> None:
    batches = np.array_split(np.random.default_rng(0).permutation(100), 30)
    for most in (SHARD, 3 * SHARD, 100 * SHARD):
        images = cached(folder, most)[1]
        for index, pixels in zip(batches, read_ahead(images, batches, threads), strict=True):
            np.testing.assert_array_equal(pixels, gold.train.images[index])


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # removed, or moved to where it stays, meanwhile
        return 0


def cached(folder: Path, most: int) -> tuple[Counter[str], ShardImages, list[int]]:
    """Images with so much disk; counts how often each shard is fetched, and notes the bytes of all at each time."""
    description = parse((folder / DESCRIPTION).read_bytes(), "gold")
    stored = {
        name: Stored((folder / name).stat().st_size, digest) for name, digest in description.files() if "npy" in name
    }
    fetched, sizes, lock = Counter[str](), list[int](), threading.Lock()
    copy = copying(folder)

    def fetch(name: str, target: Path) -> Path:
        path = copy(name, target)
        with lock:
            fetched[name] += 1
            sizes.append(sum(size_of(Path(at) / file) for at, _, files in os.walk(target.parent) for file in files))
        return path

    shards = ShardCache(fetch, stored, most, "gold of run r", "fix it")
    return fetched, ShardImages(shards, "train", description.splits["train"], (3, 8, 8)), sizes


def test_the_folder_holds_no_more_than_it_may_and_each_shard_is_fetched_once_in_order(folder: Path) -> None:
    fetched, images, sizes = cached(folder, 3 * SHARD)
    batches = np.arange(100).reshape(20, 5)
    list(read_ahead(images, batches, threads=1))
    assert set(fetched.values()) == {1}
    assert len(fetched) == 15
    assert max(sizes) <= 3 * SHARD


def test_shards_on_disk_take_no_descriptors(folder: Path) -> None:
    """A disk holds thousands of them, and a process may often have 1,024 files open."""
    images = read(folder, most_memory=0).train.images
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len(images[:]) == 100
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_with_enough_room_no_shard_is_fetched_twice(folder: Path) -> None:
    fetched, images, _ = cached(folder, 15 * SHARD)
    for epoch in range(3):
        list(read_ahead(images, np.array_split(np.random.default_rng(epoch).permutation(100), 9)))
    assert set(fetched.values()) == {1}


def test_a_reader_that_stops_early_leaves_no_thread(folder: Path) -> None:
    before = threading.active_count()
    images = cached(folder, 15 * SHARD)[1]
    reading = read_ahead(images, np.arange(100).reshape(20, 5))
    next(reading)
    reading.close()
    images._cache.close()
    until(lambda: threading.active_count() == before)


def test_a_folder_goes_with_its_images(folder: Path) -> None:
    images = cached(folder, 15 * SHARD)[1]
    images[0]
    own = images._cache._folder
    assert own.exists()
    del images
    assert not own.exists()


@pytest.mark.parametrize("most_memory", [None, 0])
def test_a_changed_shard_is_named(folder: Path, most_memory: int | None) -> None:
    path = folder / "train-00003-of-00015.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ChangedError, match=r"train-00003-of-00015.npy of gold of run r was changed .*fix it"):
        read(folder, most_memory).train.images[:]


def test_a_fetch_that_failed_is_tried_again(gold: Gold, folder: Path) -> None:
    (folder / FIRST).rename(folder / "away")
    images = read(folder, most_memory=0).train.images
    with pytest.raises(FileNotFoundError):
        images[0]
    (folder / "away").rename(folder / FIRST)
    np.testing.assert_array_equal(images[0], gold.train.images[0])


def test_a_full_disk_says_so_and_can_be_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read(folder, most_memory=0).train.images
    (folder / FIRST).unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UnavailableError, match=rf"no room for {FIRST} of gold of run r: 10 bytes are left"):
        images[0]


def test_too_little_disk_is_refused_before_anything_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 20 * IMAGE)
    with pytest.raises(SettingsError, match="PIPELINE_GOLD_DISK_GIB"):
        read(folder, most_memory=0, most_disk=30 * IMAGE)


def rewritten(folder: Path, change: dict[str, Any]) -> None:
    """Change the description at places like `splits.train.per_class`."""
    path = folder / DESCRIPTION
    text = json.loads(path.read_text())
    for place, value in change.items():
        *parents, last = place.split(".")
        part = text
        for name in parents:
            part = part[int(name) if name.isdigit() else name]
        part[last] = value
    path.write_text(json.dumps(text))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"classes": ["b", "a"]},
        {"mean": "abc"},
        {"shape": [3, 8, 10**9]},
        {"shape": [3, 0, 8]},
        {"splits": {}},
        {"splits.train.per_class": [50]},
        {"splits.train.per_class": [50, 51]},
        {"splits.train.per_class": [49, 51]},
        {"splits.train.per_class": [-50, 150]},
        {"splits.train.shards.0.images": 2**62},
        {"splits.train.shards.0.images": 0},
        {"splits.train.shards.0.sha256": "../../etc/passwd"},
        {"splits.train.shards.0.file": "../../etc/passwd"},
        {"splits.test.columns": []},
        {"splits.test.columns": ["light", "more"]},
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any]) -> None:
    rewritten(folder, change)
    if change == {"splits.test.columns": []}:  # what is not asked for is not read
        assert read(folder).test.columns == {}
        return
    with pytest.raises(DataError, match="cannot be used"):
        read(folder)


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: b"", lambda text: b"\xff" + text])
def test_a_damaged_description_is_refused(folder: Path, damage: Any) -> None:
    path = folder / DESCRIPTION
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot be used .gold\.json"):
        read(folder)


def test_a_description_of_more_images_than_the_index_has_takes_no_memory_for_them(folder: Path) -> None:
    many = 2**38
    change = {"splits.train.shards.0.images": many, "splits.train.per_class": [many + 93 - 50, 50]}
    rewritten(folder, change)
    with pytest.raises(DataError, match=f"bytes are too few for {many + 93} images"):
        read(folder)
    assert ROW_BYTES * many > 10**13


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", np.zeros(99, np.int64)),
        ("labels", np.zeros(100, np.int32)),
        ("labels", np.full(100, 7)),
        ("labels", np.full(100, -1)),
        ("sha256", np.zeros((100, 31), np.uint8)),
        ("name_ends", np.arange(100)[::-1].copy()),
        ("name_ends", np.full(100, 2**40)),
        ("names", np.zeros(3, np.uint8)),
        ("names", None),
    ],
)
def test_an_index_that_does_not_fit_is_refused(folder: Path, column: str, value: Any) -> None:
    tensors = load_file(folder / INDEX)
    if value is None:
        del tensors[column]
    else:
        tensors[column] = value
    save_file(tensors | {"padding": np.zeros(10_000, np.uint8)}, folder / INDEX)
    rewritten(folder, {"splits.train.index_sha256": sha256(folder / INDEX)})
    with pytest.raises(DataError, match="cannot be used"):
        read(folder)


def test_names_that_are_no_text_are_refused(folder: Path) -> None:
    tensors = load_file(folder / INDEX)
    tensors["names"][0] = 0xFF
    save_file(tensors, folder / INDEX)
    rewritten(folder, {"splits.train.index_sha256": sha256(folder / INDEX)})
    with pytest.raises(DataError, match="cannot be used"):
        read(folder)


def test_a_shard_of_another_size_is_refused_though_its_digest_fits(folder: Path) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes() + b"more")
    rewritten(folder, {"splits.train.shards.0.sha256": sha256(folder / FIRST)})
    with pytest.raises(DataError, match=f"{FIRST} has {SHARD + 4} bytes in place of {SHARD}"):
        read(folder)


def test_each_image_has_its_digest_in_the_index(gold: Gold, folder: Path) -> None:
    import hashlib

    digests = load_file(folder / INDEX)["sha256"]
    assert bytes(digests[42]) == hashlib.sha256(gold.train.images[42].tobytes()).digest()


def test_names_tell_whether_all_files_are_there(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert complete(names)
    assert complete(names | {"something else.npy"})
    for name in (DESCRIPTION, INDEX, FIRST, "train-00014-of-00015.npy", "test-00000-of-00001.npy"):
        assert not complete(names - {name}), name
    assert complete(
        names | {"train-00000-of-00002.npy"}
    )  # left by an earlier try: the description says which are meant
    assert not complete((names | {"train-00000-of-00000.npy", "train-00000-of-00002.npy"}) - {FIRST})

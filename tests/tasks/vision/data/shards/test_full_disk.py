"""Shards on a disk that is really full: a file system of 256 KiB, which only the test's own process sees."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UnavailableError
from tasks.vision.data.shards.writer import save
from tests.small_gold import read, small_gold
from tests.waiting import until

ROOT = Path(__file__).parents[5]
SHARD_BYTES = 20 * 3 * 8 * 8
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
ON_SMALL_DISK = (
    'mount -t tmpfs -o size=256k tmpfs "$1" && TMPDIR=$1 exec "$2" -m tests.tasks.vision.data.shards."$3" "$4"'
)


def test_a_shard_that_finds_the_disk_full_can_be_read_once_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    if subprocess.run([*MOUNT, 'mount -t tmpfs tmpfs "$0"', str(tmp_path / "disk")], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a file system of its own")
    save(small_gold(train=400), tmp_path / "gold", shard_bytes=SHARD_BYTES)
    command = [*MOUNT, ON_SMALL_DISK, "sh", str(tmp_path / "disk"), sys.executable, Path(__file__).stem]
    done = subprocess.run([*command, str(tmp_path / "gold")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "read again\n"


def read_on_a_full_disk(folder: Path) -> None:
    """Read gold while another program has filled the disk, and again once it has made room."""
    disk = Path(tempfile.gettempdir())
    images = read(folder, most_memory=0).train.images
    images[0]
    other = disk / "of another program"
    with pytest.raises(OSError, match="No space left"):
        other.write_bytes(bytes(256 * 1024))
    with pytest.raises(UnavailableError) as raised:
        images[100]
    assert "has no room for train-00005-of-00020.npy of gold of run r: 0 bytes are left, and it has " in str(
        raised.value
    )
    assert str(raised.value).endswith("; free some, or set PIPELINE_GOLD_DISK_GIB lower")
    (cache,) = disk.glob("shards-*")
    until(lambda: [path.name for path in cache.iterdir()] == ["train-00000-of-00020.npy"])
    other.unlink()
    np.testing.assert_array_equal(images[:], small_gold(train=400).train.images)
    print("read again")


if __name__ == "__main__":
    read_on_a_full_disk(Path(sys.argv[1]))

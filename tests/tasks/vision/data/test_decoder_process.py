from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.decoder_process import AbandonedError, DecoderProcess, DecoderProcesses, belongs_apart
from tests.tasks.vision.data.picture_files import case, encoded, heic_grid, noise
from tests.waiting import until

MEBIBYTE = 2**20
SIDE = 8192


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """67 million pixels with transparency in 290 kB."""
    return encoded(Image.new("RGBA", (SIDE, SIDE), (10, 200, 30, 7)), compress_level=1)


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess()
    yield process
    process.stop()


def peak(decoder: DecoderProcess) -> int:
    assert decoder._process
    lines = Path(f"/proc/{decoder._process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def test_it_answers_as_this_process_does(decoder: DecoderProcess) -> None:
    for data in (encoded(noise(50, 40)), case("photo.heic"), encoded(noise(30, 30), "AVIF")):
        np.testing.assert_array_equal(decoder.decode(data, 3, 16), images.decode(data, 3, 16))
    with pytest.raises(DataError, match="not a JPEG"):
        decoder.decode(b"no image", 3, 16)


def test_the_largest_image_stays_under_512_mb(decoder: DecoderProcess, bomb: bytes) -> None:
    assert (decoder.decode(bomb, 3, 16)[0] == 248).all()
    assert peak(decoder) < 400 * MEBIBYTE


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_what_takes_more_is_refused_before(decoder: DecoderProcess, kind: str) -> None:
    large = Image.new("CMYK" if kind == "JPEG" else "RGB", (SIDE, SIDE))
    data = encoded(large, kind, **({"progressive": True} if kind == "JPEG" else {"lossless": True, "method": 0}))
    with pytest.raises(images.ImageTooLargeError, match=r"8192 x 8192 pixels of this \w+ file take \d+ MiB"):
        decoder.decode(data, 3, 16)
    assert peak(decoder) < 200 * MEBIBYTE


def test_what_takes_more_than_its_header_says_is_refused_too(decoder: DecoderProcess) -> None:
    with pytest.raises(DataError, match="damaged"):
        decoder.decode(heic_grid(30, 33, (64, 64)), 3, 16)
    assert peak(decoder) < 200 * MEBIBYTE


def test_work_that_nobody_waits_for_is_ended(decoder: DecoderProcess, bomb: bytes) -> None:
    with pytest.raises(AbandonedError):
        decoder.decode(bomb, 3, 16, lambda: True)
    assert decoder._process is None
    assert decoder.decode(encoded(noise(16, 16)), 3, 16).shape == (3, 16, 16), "another one is started"


@pytest.mark.parametrize(
    ("number", "text"),
    [(signal.SIGPROF, "takes over 30 s"), (signal.SIGSEGV, "ends its decoder"), (signal.SIGKILL, "ends its decoder")],
)
def test_an_image_that_ends_the_process_is_a_bad_image(
    decoder: DecoderProcess, bomb: bytes, number: signal.Signals, text: str
) -> None:
    decoder.decode(encoded(noise(16, 16)), 3, 16)
    assert decoder._process
    pid = decoder._process.pid
    ending = threading.Timer(0.3, os.kill, (pid, number))
    ending.start()
    with pytest.raises(DataError, match=text):
        decoder.decode(bomb, 3, 16)
    ending.join()
    assert decoder.decode(encoded(noise(16, 16)), 3, 16).shape == (3, 16, 16)


def test_one_that_was_killed_while_it_waited_is_replaced(decoder: DecoderProcess) -> None:
    data = encoded(noise(16, 16))
    decoder.decode(data, 3, 16)
    assert decoder._process
    os.kill(decoder._process.pid, signal.SIGKILL)
    until(lambda: decoder._process is None or decoder._process.poll() is not None)
    assert decoder.decode(data, 3, 16).shape == (3, 16, 16)


def test_only_what_is_large_or_not_bound_by_its_header_goes_there() -> None:
    here = [encoded(noise(64, 64), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    here.append(encoded(Image.new("RGB", (6000, 4000)), "JPEG"))
    assert not any(belongs_apart(images.open_image(data), 32) for data in here)
    apart = [case("photo.heic"), encoded(noise(64, 64), "AVIF"), encoded(Image.new("RGB", (6000, 4000)))]
    assert all(belongs_apart(images.open_image(data), 32) for data in apart)


def test_threads_share_the_processes() -> None:
    decoders = DecoderProcesses(1)
    found: list[np.ndarray] = []
    data = encoded(noise(16, 16))
    threads = [threading.Thread(target=lambda: found.append(decoders.decode(data, 3, 16))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decoders.close()
    assert len(found) == 4

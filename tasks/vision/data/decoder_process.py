"""Decodes images in a process of its own: its memory and time have an end, whatever the file makes the decoder do.

A thread in C code cannot be stopped, and its memory is that of the whole process. What a header says is enough to bound
both for most files; this is for those that are large, and for formats whose header does not bind the decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import LifoQueue

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.formats import memory
from tasks.vision.data.process_memory import at_most, data_bytes

MODULE = "tasks.vision.data.decoder_process"
CPU_SECONDS = 30  # for one image; 67 million pixels take up to 9
HERE_BYTES = 64 * 2**20  # an image that takes no more memory is decoded by the caller's own thread
MOST_PROCESSES = 4  # beside threads that decode
PROCESS_BYTES = 512 * 2**20  # that each may take
SLACK_BYTES = 32 * 2**20  # beyond what images may take: what the interpreter needs meanwhile
POLL_SECONDS = 0.1
# The coded picture may be larger than the size in the header, and decoders have crashed on damaged ones.
_APART = frozenset(("AVIF", "HEIF"))
# Each thread of a library for algebra would reserve memory. The C library gives large blocks back when they are freed.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**18)}
_DONE, _BAD, _TOO_LARGE = b"d", b"b", b"l"


class AbandonedError(Exception):
    """Nobody waits for the image any more."""


def belongs_apart(image: Image.Image, size: int, here_bytes: int = HERE_BYTES) -> bool:
    """Tell whether an opened image should be decoded in another process, as in a thread it would take too much."""
    return image.format in _APART or memory.needed(image, size * images.DRAFT_OVERSAMPLING) > here_bytes


class DecoderProcess:
    """One process that decodes one image at a time; started with the first one, and again after it was ended."""

    def __init__(self, niceness: int = 0) -> None:
        """Take by how much the process gives way to others."""
        self._niceness = niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None

    def decode(
        self, data: bytes, channels: int, size: int, abandoned: Callable[[], bool] = lambda: False
    ) -> NDArray[np.uint8]:
        """Return what `images.decode` returns. Not for several threads at a time.

        Args:
            data: the whole file.
            channels: 1 for grey, 3 for RGB.
            size: side of the result.
            abandoned: asked ten times a second; when it is true, the process is ended.

        Raises:
            AbandonedError: `abandoned` was true.
            ImageTooLargeError: the image is too large, or took more memory than its header said.
            DataError: the image is damaged, took over `CPU_SECONDS`, or crashed the decoder.
        """
        channel = self._ready()
        try:
            channel.send_bytes(bytes([channels]) + size.to_bytes(4, "big"))
            channel.send_bytes(data)
            while not channel.poll(POLL_SECONDS):
                if abandoned():
                    self.stop()
                    raise AbandonedError
            kind, content = channel.recv_bytes(1), channel.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == _DONE:
            return np.frombuffer(content, np.uint8).reshape(channels, size, size)
        raise (images.ImageTooLargeError if kind == _TOO_LARGE else DataError)(content.decode())

    def stop(self) -> None:
        """End the process; another is started when there is an image."""
        if self._process is not None and self._channel is not None:
            self._channel.close()
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None

    def _ready(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._channel is None:
            self._channel, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  # our own module
                    [sys.executable, "-m", MODULE, f"--channel={theirs.fileno()}", f"--nice={self._niceness}"],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_ENVIRONMENT},
                )
        return self._channel

    def _ended(self) -> DataError:
        """Return what the end of the process says about the image."""
        assert self._process is not None  # noqa: S101  # it has just been asked
        code = self._process.wait()
        self.stop()
        if code == -signal.SIGPROF:
            return DataError(f"decoding the image takes over {CPU_SECONDS} s; save it again, or give a smaller one")
        return DataError(f"the image ends its decoder ({code}); save it again with another program")


class DecoderProcesses:
    """Up to `count` such processes, for threads to share."""

    def __init__(self, count: int, here_bytes: int = HERE_BYTES) -> None:
        """Start none yet.

        Args:
            count: how many.
            here_bytes: an image that takes no more memory is decoded by the caller's own thread, see `pixels`.
        """
        self.here_bytes = here_bytes
        self._free: LifoQueue[DecoderProcess] = LifoQueue()
        self._all = [DecoderProcess() for _ in range(count)]
        for one in self._all:
            self._free.put(one)

    @classmethod
    def beside(cls, threads: int) -> DecoderProcesses:
        """Return as many as so many threads that decode need."""
        return cls(min(threads, MOST_PROCESSES))

    def pixels(self, data: bytes, image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
        """Decode an image opened from `data`, in this thread where `belongs_apart` allows it; see `images.decode`."""
        if belongs_apart(image, size, self.here_bytes):
            return self.decode(data, channels, size)
        return images.pixels(image, channels, size)

    def decode(self, data: bytes, channels: int, size: int) -> NDArray[np.uint8]:
        """Wait for a free process; see `DecoderProcess.decode`."""
        one = self._free.get()
        try:
            return one.decode(data, channels, size)
        finally:
            self._free.put(one)

    def close(self) -> None:
        """End all of them; no thread may be decoding."""
        for one in self._all:
            one.stop()


def main() -> None:
    """Decode what comes through the channel until it is closed."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--nice", type=int, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the process that uses this one
    os.nice(given.nice)
    channel = Connection(given.channel)
    own = data_bytes()
    with contextlib.suppress(EOFError, OSError):
        while True:
            wanted = channel.recv_bytes()
            kind, content = _answer(channel.recv_bytes(), wanted[0], int.from_bytes(wanted[1:], "big"), own)
            channel.send_bytes(kind)
            channel.send_bytes(content)


def _answer(data: bytes, channels: int, size: int, own: int) -> tuple[bytes, bytes]:
    """Decode one image; `own` is what the process takes without one."""
    try:
        image = images.open_image(data)
        with at_most(own + images.MAX_BYTES + SLACK_BYTES + 2 * len(data)), _cpu_time():
            return _DONE, images.pixels(image, channels, size).tobytes()
    except images.ImageTooLargeError as error:
        return _TOO_LARGE, str(error).encode()
    except MemoryError:
        text = f"decoding the image takes over {images.MAX_BYTES // 2**20} MiB of memory; make it smaller"
        return _TOO_LARGE, text.encode()
    except DataError as error:
        return _BAD, str(error).encode()


@contextmanager
def _cpu_time() -> Iterator[None]:
    """Bound the time that this process takes meanwhile; SIGPROF ends it."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()

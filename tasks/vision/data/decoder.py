"""Decodes images for prepare: here, or on the workers of a Ray (`tasks.cluster.decoding`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import images
from tasks.vision.data.decoder_process import DecoderProcesses
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.limits import MIN_SIDE
from tasks.vision.data.memory_budget import MemoryBudget
from tasks.vision.data.records import Content, Reason

MAX_SIDE, MAX_ASPECT = 8192, 8.0


class Outcome(NamedTuple):
    """What came of one image.

    Attributes:
        width: in pixels as declared, 0 if unknown; likewise `height`.
        pixels: uint8 [C, S, S]; None when `fault` says why there are none, or where nobody asked for them.
        pixels_sha256: digest of the pixels; b"" when there are none.
        fault: UNREADABLE or WRONG_SIZE, and `detail` in words.
    """

    width: int = 0
    height: int = 0
    pixels: NDArray[np.uint8] | None = None
    pixels_sha256: bytes = b""
    fault: Reason | None = None
    detail: str = ""


class Decoder(Protocol):
    """Decodes images; several threads may ask it at once."""

    @property
    def at_once(self) -> int:
        """How many threads keep it busy."""
        ...

    @property
    def thread_bytes(self) -> int:
        """Memory that each of these threads takes at most, in bytes."""
        ...

    def decode(self, contents: Sequence[Content]) -> Iterator[Outcome]:
        """Yield what came of each image, in their order."""
        ...


@dataclass(frozen=True)
class Here:
    """Decodes in this process.

    Attributes:
        channels: of the pixels, 1 for grey, 3 for RGB.
        size: side of the square that each image becomes, in pixels.
        at_once: threads.
        processes: for large images.
    """

    channels: int
    size: int
    at_once: int
    processes: DecoderProcesses

    @property
    def thread_bytes(self) -> int:
        """Memory that each of these threads takes at most, in bytes."""
        return self.processes.here_bytes

    def decode(self, contents: Sequence[Content]) -> Iterator[Outcome]:
        """Decode one image after the other, when it is asked for: its pixels alone are in memory."""
        for content in contents:
            image, opened = open_content(content)
            yield opened if image is None else self._decoded(content, image, opened)

    def _decoded(self, content: Content, image: Image.Image, opened: Outcome) -> Outcome:
        try:
            if isinstance(content, bytes):
                pixels = self.processes.pixels(content, image, self.channels, self.size)
            else:
                pixels = images.pixels(image, self.channels, self.size)
        except DataError as error:
            return opened._replace(fault=Reason.UNREADABLE, detail=str(error))
        return opened._replace(pixels=pixels, pixels_sha256=hashlib.sha256(pixels.data).digest())


@contextmanager
def decoding_here(threads: int, shaping: Shaping, budget: MemoryBudget) -> Iterator[Here]:
    """Yield a decoder of so many threads in this process, for so much memory; its processes end with the block.

    After an error they end with this process: a stage that is asked to stop does not wait for threads that decode.
    """
    here = Here(shaping.channels, shaping.size, threads, DecoderProcesses(budget.processes, budget.here_bytes))
    yield here
    here.processes.close()


def open_content(content: Content) -> tuple[Image.Image | None, Outcome]:
    """Open an image, and say how large it is; None if something is wrong with it, which the outcome says."""
    try:
        image = images.open_image(content) if isinstance(content, bytes) else Image.fromarray(content)
    except DataError as error:
        return None, Outcome(fault=Reason.UNREADABLE, detail=str(error))
    width, height = image.size
    if wrong := size_fault(width, height):
        return None, Outcome(width, height, fault=Reason.WRONG_SIZE, detail=wrong)
    return image, Outcome(width, height)


def size_fault(width: int, height: int) -> str:
    """Return what is wrong with the size of an image; "" when nothing is."""
    size = f"{width} x {height} pixels"
    if min(width, height) < MIN_SIDE:
        return f"{size}; a side is under {MIN_SIDE}"
    if max(width, height) > MAX_SIDE:
        return f"{size}; a side is over {MAX_SIDE}"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{size}; one side is over {MAX_ASPECT:.0f} times the other"
    return ""

"""Decodes and classifies encoded images: here, or on the workers of a Ray (`tasks.prediction.workers`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.vision.data import images as decoding
from tasks.vision.data.decoder_process import DecoderProcesses
from tasks.vision.models.forward import Forward


class Outcome(NamedTuple):
    """What came of one image: the probability of each class, float32 [K], or None and why not."""

    probabilities: NDArray[np.float32] | None
    reason: str = ""


class Classifier(Protocol):
    """Classifies encoded images; several threads may ask it at once."""

    @property
    def at_once(self) -> int:
        """How many threads keep it busy."""
        ...

    def classify(self, images: Iterable[bytes]) -> list[Outcome]:
        """Return what came of each image, in their order. They are taken one by one, so they may be read meanwhile."""
        ...


@dataclass(frozen=True)
class Here:
    """Classifies in this process, on `at_once` cores.

    Attributes:
        forward: the model.
        shape: of its images, channels, side, side.
        decoders: for large images.
        passes: a pass takes the memory of its activations, so only so many run at a time.
    """

    forward: Forward
    shape: tuple[int, int, int]
    at_once: int
    decoders: DecoderProcesses
    passes: threading.Semaphore

    @classmethod
    def on(cls, cpus: int, forward: Forward, shape: tuple[int, int, int]) -> Here:
        """Make one that uses so many cores."""
        return cls(forward, shape, cpus, DecoderProcesses.beside(cpus), threading.Semaphore(cpus))

    def classify(self, images: Iterable[bytes]) -> list[Outcome]:
        """Decode as the service does, then run one forward pass for all of them."""
        pixels: list[NDArray[np.uint8]] = []
        reasons: list[str] = []
        for data in images:
            try:
                pixels.append(self._pixels(data))
                reasons.append("")
            except DataError as error:
                reasons.append(str(error))
        rows = iter(self._rows(pixels) if pixels else ())
        return [Outcome(None, reason) if reason else Outcome(next(rows)) for reason in reasons]

    def _rows(self, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        stacked = np.stack(pixels)
        with self.passes:
            return self.forward(stacked)

    def _pixels(self, data: bytes) -> NDArray[np.uint8]:
        channels, side, _ = self.shape
        return self.decoders.pixels(data, decoding.open_image(data), channels, side)


@contextmanager
def classifying_here(cpus: int, forward: Forward, shape: tuple[int, int, int]) -> Iterator[Here]:
    """Yield a classifier in this process; its decoders end with the block.

    After an error they end with the process: a stage that is asked to stop does not wait for threads that decode.
    """
    here = Here.on(cpus, forward, shape)
    yield here
    here.decoders.close()

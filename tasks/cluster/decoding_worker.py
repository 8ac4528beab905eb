"""What a worker of a Ray runs for prepare; its images come from the stage, and their pixels go there."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.decoder import Here, Outcome
from tasks.vision.data.decoder_process import DecoderProcesses
from tasks.vision.data.records import Content


class DecodingWorker:
    """Decodes what the stage sends. An actor, one thread a core."""

    def __init__(self, channels: int, size: int, cpus: int) -> None:
        """Take what becomes of each image, as `Here` does, and how many cores it may use."""
        self._here = Here(channels, size, cpus, DecoderProcesses.beside(cpus))

    def ready(self) -> str:
        """Return the name of this machine."""
        return socket.gethostname()

    def decode(self, contents: Sequence[Content]) -> tuple[list[Outcome], NDArray[np.uint8]]:
        """Return what came of each image, in their order, without pixels, and the pixels of those that have some.

        The pixels are one array [N, C, S, S], which Ray passes on without a copy.
        """
        pixels = np.empty((len(contents), self._here.channels, self._here.size, self._here.size), np.uint8)
        outcomes, decoded = [], 0
        for outcome in self._here.decode(contents):
            if outcome.pixels is not None:
                pixels[decoded] = outcome.pixels
                decoded += 1
            outcomes.append(outcome._replace(pixels=None))
        return outcomes, pixels[:decoded]

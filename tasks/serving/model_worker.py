"""What a worker of a Ray runs for a stage that asks models: it opens what the stage sends, and answers."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from numpy.typing import NDArray

from tasks.serving.runtimes import ONNX, open_onnx_content, open_program
from tasks.vision.models.forward import Forward


@dataclass(frozen=True)
class SentModel:
    """A model in Ray's memory, as a call names it. A worker fetches it when it needs it, so that a new one can too.

    Attributes:
        runtime: that opens it, `onnx` or `pytorch`.
        files: reference to its files.
    """

    runtime: str
    files: Any

    @classmethod
    def put(cls, runtime: str, files: Mapping[str, bytes]) -> Self:
        """Put a model into Ray's memory.

        Args:
            runtime: that opens it.
            files: checked by the stage, by path: the ONNX file alone, or those of a logged model with a program.
        """
        return cls(runtime, ray.put(dict(files)))

    def open(self) -> Forward:
        """Fetch and open the model; several threads may ask it at once, and each answer takes one core.

        Raises:
            ModelError: it cannot be opened here.
        """
        files: dict[str, bytes] = ray.get(self.files)
        if self.runtime == ONNX:
            [(name, content)] = files.items()
            return open_onnx_content(content, Path(name).name, 1)
        from tasks.vision.devices import prepare_cpu

        prepare_cpu(0, cpus=1)  # without it, freed memory goes back to the kernel, and answers take twice as long
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            return open_program(Path(folder))


class ModelWorker:
    """Answers for the model that a call names, and keeps the last one open. An actor, one thread a core."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._lock = threading.Lock()
        self._last: tuple[SentModel, Forward] | None = None

    def ready(self) -> str:
        """Return the name of this machine, once the worker can answer."""
        return socket.gethostname()

    def answer(self, model: SentModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities [N, K] that a model gives to images [N, C, H, W] of its shape.

        Raises:
            ModelError: it cannot be opened here.
        """
        return self._forward(model)(images)

    def _forward(self, model: SentModel) -> Forward:
        with self._lock:  # a second thread waits, rather than open it too
            if self._last is None or self._last[0] != model:
                self._last = model, model.open()
            return self._last[1]

"""What a worker of a Ray runs for a batch prediction; its images come from the stage, and their answers go there."""

from __future__ import annotations

import socket

from tasks.prediction.classifier import Here, Outcome
from tasks.serving.runtimes import open_onnx_content


class PredictionWorker:
    """Holds a model in memory, and decodes and classifies what the stage sends. An actor, one thread a core."""

    def __init__(self, content: bytes, name: str, shape: tuple[int, int, int], cpus: int) -> None:
        """Open the model.

        Args:
            content: of its ONNX file, which the stage has checked.
            name: of the file, for errors.
            shape: of its images, channels, side, side.
            cpus: cores that it may use; a pass takes one.

        Raises:
            ModelError: ONNX Runtime cannot open it here.
        """
        self._here = Here.on(cpus, open_onnx_content(content, name, 1), shape)

    def ready(self) -> str:
        """Return the name of this machine, once the model is open."""
        return socket.gethostname()

    def classify(self, images: list[bytes]) -> list[Outcome]:
        """Return what came of each image, in their order."""
        return self._here.classify(images)

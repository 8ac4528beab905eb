"""What a worker of a Ray runs for a batch prediction; its images come from the stage, and their answers go there."""

from __future__ import annotations

from tasks.prediction.classifier import Here, Outcome
from tasks.serving.model_worker import ModelWorker, SentModel


class PredictionWorker(ModelWorker):
    """Holds a model in memory, and decodes and classifies what the stage sends. An actor, one thread a core."""

    def __init__(self, model: SentModel, shape: tuple[int, int, int], cpus: int) -> None:
        """Open the model.

        Args:
            model: its ONNX file, which the stage has checked.
            shape: of its images, channels, side, side.
            cpus: cores that it may use; a pass takes one.

        Raises:
            ModelError: ONNX Runtime cannot open it here.
        """
        super().__init__()
        self._here = Here.on(cpus, model.open(), shape)

    def classify(self, images: list[bytes]) -> list[Outcome]:
        """Return what came of each image, in their order."""
        return self._here.classify(images)

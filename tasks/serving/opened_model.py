"""A logged model as evaluate judges it: opened as in the service, with its answers to the test images and its cost."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.gate.evidence import Cost, Loading, Scores
from tasks.records import artifact_digest
from tasks.serving.load_check import MEGABYTE, LoadCheck, load_check
from tasks.serving.model import threads
from tasks.serving.runtimes import ONNX, PYTORCH, open_model, open_program, runtime_of, served_bytes
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold
from tasks.vision.evaluation.agreement import Agreement
from tasks.vision.evaluation.scoring import (
    Answers,
    ClassScores,
    Latency,
    calibration_error,
    predict,
    score,
    top5_accuracy,
)
from tasks.vision.models.forward import Forward


@dataclass(frozen=True)
class OpenedModel:
    """A logged model in memory, opened as in the service, with its answers to the test images."""

    forward: Forward
    shape: tuple[int, int, int]
    size_bytes: int
    trial: LoadCheck
    agreement: Agreement | None
    probabilities: NDArray[np.float32]
    correct: NDArray[np.bool_]
    scores: ClassScores
    summary: Scores

    @property
    def loading(self) -> Loading:
        """Whether it loads, and answers as it was trained to."""
        if self.agreement is None or not self.trial.works:
            return Loading(works=self.trial.works, note=self.trial.note)
        return Loading(works=self.agreement.holds, note=f"{self.trial.note}; it {self.agreement}")

    @property
    def answers(self) -> Answers:
        """Its answers to the test images, scored."""
        return Answers(self.probabilities, self.scores)

    def cost(self, latency: Latency) -> Cost | None:
        """Latency, memory and size; None if its load check ended before the memory was measured."""
        if self.trial.memory_mb is None:
            return None
        return Cost(
            p50_ms=latency.single_p50_ms,
            p95_ms=latency.single_p95_ms,
            memory_mb=self.trial.memory_mb,
            size_mb=self.size_bytes / MEGABYTE,
        )


def open_logged(model_uri: str, gold: Gold, artifact_sha256: str | None, what: str, *, both_forms: bool) -> OpenedModel:
    """Fetch a model, check its files, open it as the service would, and get its answers to the test images.

    Args:
        model_uri: of the logged model.
        gold: the data; its test images are answered.
        artifact_sha256: digest of its files; None: another program registered it, and nothing is compared.
        what: names it in errors.
        both_forms: whether the form that is served is compared with the one that was trained.

    Raises:
        ModelError: its files were changed, it cannot be opened, or its classes are not those of the data.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=folder))
        if artifact_sha256 is not None:  # a champion registered by another program has none
            artifact_digest.require(path, artifact_sha256, what)
        description = mlflow.models.Model.load(str(path))
        metadata = description.metadata or {}
        classes = tuple(metadata.get("classes", ()))
        if classes != gold.classes:
            raise ModelError(
                f"{model_uri} has the classes {list(classes)[:5]}, the data have {list(gold.classes)[:5]}; "
                "evaluate it on the data it was trained on"
            )
        channels, height, width = metadata["input"]
        shape = (channels, height, width)
        runtime = runtime_of(description)
        onnx = runtime == ONNX
        with load_check(path) as outcome:
            each = threads(runtime)
            forward = open_model(path, description, each)
            at_once = max(1, available_cpus() // each) if onnx else 1  # torch's threads share one answer
            probabilities = predict(forward, gold.test.images, shape, at_once)
            agreement = None
            if both_forms and onnx and PYTORCH in description.flavors:  # a compressed model has no other form
                trained = predict(open_program(path), gold.test.images, shape)
                agreement = Agreement.of(probabilities, trained)
            trial = outcome()
        size = served_bytes(path, description)
    scores = score(gold.test.labels, probabilities)
    return OpenedModel(
        forward=forward,
        shape=shape,
        size_bytes=size,
        trial=trial,
        agreement=agreement,
        probabilities=probabilities,
        correct=probabilities.argmax(1) == gold.test.labels,
        scores=scores,
        summary=Scores(
            accuracy=scores.accuracy,
            macro_f1=scores.macro_f1,
            calibration_error=calibration_error(gold.test.labels, probabilities),
            top5_accuracy=top5_accuracy(gold.test.labels, probabilities),
        ),
    )

"""A logged model as evaluate judges it: opened as in the service, with its answers to the test images and its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.gate.evidence import Cost, Loading, Scores
from tasks.serving.fetched_model import FetchedModel
from tasks.serving.load_check import MEGABYTE, LoadCheck, load_check
from tasks.serving.model import threads
from tasks.serving.runtimes import ONNX, PYTORCH, open_model, open_program, served_bytes
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Images
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

if TYPE_CHECKING:
    from tasks.serving.model_workers import ModelWorkers  # imports Ray, which only an evaluation on workers needs


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


def opened(model: FetchedModel, gold: Gold, *, both_forms: bool, workers: ModelWorkers | None = None) -> OpenedModel:
    """Open a model as the service would, and get its answers to the test images.

    Args:
        model: its files.
        gold: the data; its test images are answered.
        both_forms: whether the form that is served is compared with the one that was trained.
        workers: that compute the answers; None: this process.

    Raises:
        ModelError: it cannot be opened.
        UnavailableError: the workers are lost.
    """
    runtime, images = model.runtime, gold.test.images
    with load_check(model.folder) as outcome:
        forward = open_model(model.folder, model.description, threads(runtime))
        probabilities = _answers(model, runtime, images, workers, lambda: forward)
        agreement = None
        has_program = PYTORCH in model.description.flavors  # a compressed model has not
        if both_forms and runtime == ONNX and has_program:
            trained = _answers(model, PYTORCH, images, workers, lambda: open_program(model.folder))
            agreement = Agreement.of(probabilities, trained)
        trial = outcome()
    scores = score(gold.test.labels, probabilities)
    return OpenedModel(
        forward=forward,
        shape=model.shape,
        size_bytes=served_bytes(model.folder, model.description),
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


def _answers(
    model: FetchedModel, runtime: str, images: Images, workers: ModelWorkers | None, here: Callable[[], Forward]
) -> NDArray[np.float32]:
    """Return the answers of one form of a model: by the workers, or by what `here` opens."""
    if workers is not None:
        return predict(workers.forward(model, runtime), images, model.shape, workers.at_once)
    at_once = max(1, available_cpus() // threads(runtime)) if runtime == ONNX else 1  # torch's threads share one answer
    return predict(here(), images, model.shape, at_once)

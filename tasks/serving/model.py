"""One model in memory: opened from the files that were prepared for it, warmed, ready to answer."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.records.reference_predictions import ReferencePredictions
from tasks.serving.model_reference import Target
from tasks.serving.runtimes import ONNX, PYTORCH, open_onnx, open_program
from tasks.vision.cpus import available_cpus
from tasks.vision.models.forward import Forward

# Images per forward pass: bounds the memory that activations take, whatever the request's size.
CHUNK = 32
LONG_PASS = 1.5e-3  # seconds for one image, from which on passes run beside each other
TIMED = 5


@dataclass(frozen=True)
class ModelSpec:
    """What is known about a model without opening it."""

    target: Target
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    metadata: dict[str, Any]
    loaded_at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class PreparedModel(ModelSpec):
    """A model's checked files on this machine, for any process to open."""

    runtime: str
    files: Path
    """The ONNX file, or with PYTORCH the folder of the logged model."""
    reference: ReferencePredictions | None = None
    """What it answered in evaluate; None if the pipeline did not evaluate it."""


@dataclass(frozen=True)
class ServedModel(ModelSpec):
    """A loaded model; it never changes, so requests share it without a lock."""

    forward: Forward
    passes: int = 1
    """How many forward passes at a time pay in this process."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images.

        Args:
            images: uint8 [N, C, H, W], 0..255, N at least 1.

        Returns:
            float32 [N, K]: the probability of each of `classes`.
        """
        return np.concatenate([self.forward(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)])


def open_prepared(prepared: PreparedModel, processes: int = 1) -> ServedModel:
    """Open a model and run it once.

    Args:
        prepared: its files.
        processes: that answer on this machine and share its cores.

    Raises:
        ModelError: it is damaged, or does not answer with one probability per class.
        MlflowException: it contains pickled objects.
    """
    each = threads(prepared.runtime)
    try:
        if prepared.runtime == PYTORCH:
            import torch

            torch.set_num_threads(max(1, each // processes))
            forward = open_program(prepared.files)
        else:
            forward = open_onnx(prepared.files, each)
    except ModelError as error:
        raise ModelError(f"{prepared.target}: {error}") from error
    model = ServedModel(
        prepared.target, prepared.classes, prepared.shape, prepared.metadata, forward, loaded_at=prepared.loaded_at
    )
    _warm(model)
    return replace(model, passes=_passes(model, prepared.runtime, processes))


def threads(runtime: str) -> int:
    """Return how many threads a forward pass uses.

    With ONNX Runtime one, because several passes at a time use the cores better. With torch half of the cores: its
    threads spin while they wait for each other, and one that lost its core to a decoder delays them all.
    """
    return int(os.environ.get("OMP_NUM_THREADS") or (1 if runtime == ONNX else max(1, available_cpus() // 2)))


def _passes(model: ServedModel, runtime: str, processes: int) -> int:
    """Decide how many passes at a time pay: one with small networks, whose pass is shorter than Python's part."""
    image = np.zeros((1, *model.shape), np.uint8)
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        model.forward(image)
        seconds.append(time.perf_counter() - start)
    pays = runtime == ONNX and min(seconds) > LONG_PASS  # the fastest: other load on the machine only slows
    return max(1, available_cpus() // threads(runtime) // processes) if pays else 1


def _warm(model: ServedModel) -> None:
    """Run batches of one and two: to warm up before the first request, and to refuse a fixed batch size."""
    for size in (1, 2):
        try:
            answer = model.forward(np.zeros((size, *model.shape), np.uint8))
        except Exception as error:
            raise ModelError(f"{model.target} fails on {size} black image(s): {error}") from error
        expected = (size, len(model.classes))
        if answer.shape != expected or not all(math.isclose(row.sum(), 1, abs_tol=1e-3) for row in answer):
            raise ModelError(f"{model.target} answers {answer.shape}, not probabilities {expected}; train it again")

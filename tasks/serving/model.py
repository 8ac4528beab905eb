"""One model in memory: fetched from MLflow, checked, warmed, ready to answer."""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.records import artifact_digest
from tasks.serving.model_description import ModelDescription
from tasks.serving.model_reference import Target
from tasks.serving.runtimes import ONNX, PYTORCH, open_model, runtime_of
from tasks.vision.cpus import available_cpus
from tasks.vision.models.forward import Forward

# Images per forward pass: bounds the memory that activations take, whatever the request's size.
CHUNK = 32
LONG_PASS = 1.5e-3  # seconds for one image, from which on passes run beside each other
TIMED = 5


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; it never changes, so requests share it without a lock."""

    target: Target
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    metadata: dict[str, Any]
    forward: Forward
    passes: int = 1
    """How many forward passes at a time pay on this machine."""
    loaded_at: float = field(default_factory=time.time)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images.

        Args:
            images: uint8 [N, C, H, W], 0..255, N at least 1.

        Returns:
            float32 [N, K]: the probability of each of `classes`.
        """
        return np.concatenate([self.forward(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)])


def load(target: Target) -> ServedModel:
    """Fetch a model from MLflow, check its description, and run it once.

    Raises:
        ModelError: its files are not those registered, it has no classes or input shape, contains code, or does not
            answer with one probability per class.
        MlflowException: it contains pickled objects, or MLflow or its store does not answer.
    """
    # Imported here, because they take seconds and other users of this module need none of them.
    import mlflow

    with tempfile.TemporaryDirectory(prefix="serving-model-") as folder:
        path = mlflow.artifacts.download_artifacts(artifact_uri=target.uri, dst_path=folder)
        if target.artifact_sha256 is not None:
            artifact_digest.require(Path(path), target.artifact_sha256, str(target))
        description = ModelDescription.of(Path(path))
        metadata = dict(description.metadata or {})
        classes, shape = _described(target, metadata)
        try:
            runtime = runtime_of(description)
            if runtime == PYTORCH:
                import torch

                torch.set_num_threads(threads(runtime))
            forward = open_model(Path(path), description, threads(runtime))
        except ModelError as error:
            raise ModelError(f"{target}: {error}") from error
    model = ServedModel(target, classes, shape, metadata, forward)
    _warm(model)
    return replace(model, passes=_passes(model, runtime))


def threads(runtime: str) -> int:
    """Return how many threads a forward pass uses.

    With ONNX Runtime one, because several passes at a time use the cores better. With torch half of the cores: its
    threads spin while they wait for each other, and one that lost its core to a decoder delays them all.
    """
    return int(os.environ.get("OMP_NUM_THREADS") or (1 if runtime == ONNX else max(1, available_cpus() // 2)))


def _passes(model: ServedModel, runtime: str) -> int:
    """Decide how many passes at a time pay: one with small networks, whose pass is shorter than Python's part."""
    image = np.zeros((1, *model.shape), np.uint8)
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        model.forward(image)
        seconds.append(time.perf_counter() - start)
    pays = runtime == ONNX and min(seconds) > LONG_PASS  # the fastest: other load on the machine only slows
    return max(1, available_cpus() // threads(runtime)) if pays else 1


def _described(target: Target, metadata: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    classes, shape = metadata.get("classes"), metadata.get("input")
    if not isinstance(classes, list) or len(classes) < 2 or len(set(classes)) != len(classes):
        raise ModelError(f"{target}: metadata 'classes' is {classes!r}; log the model with a list of its class names")
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise ModelError(f"{target}: metadata 'input' is {shape!r}; log the model with [channels, side, side]")
    return tuple(map(str, classes)), (int(shape[0]), int(shape[1]), int(shape[2]))


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

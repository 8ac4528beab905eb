"""One model in memory: fetched from MLflow, checked, warmed, ready to answer."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.records import artifact_digest
from tasks.serving.model_reference import Target

# Images per forward pass: bounds the memory that activations take, whatever the request's size.
CHUNK = 32


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; it never changes, so requests share it without a lock."""

    target: Target
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    metadata: dict[str, Any]
    forward: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
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
    import mlflow.pytorch
    import torch
    from mlflow.models import Model

    from tasks.vision.devices import available_cpus

    # Half the cores for the forward pass, the others for HTTP and decoding: torch's threads spin while they wait for
    # each other, and one that lost its core to a decoder delays them all.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // 2))
    # torch.export's archives may contain pickles; with this, MLflow refuses such files before it opens them.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    with tempfile.TemporaryDirectory(prefix="serving-model-") as folder:
        path = mlflow.artifacts.download_artifacts(artifact_uri=target.uri, dst_path=folder)
        if target.artifact_sha256 is not None:
            artifact_digest.require(Path(path), target.artifact_sha256, str(target))
        description = Model.load(path)
        metadata = dict(description.metadata or {})
        classes, shape = _described(target, metadata)
        flavor = description.flavors.get("pytorch")
        if flavor is None or flavor.get("code"):
            raise ModelError(f"{target} is not a plain PyTorch model, or contains code; log it as train does")
        module = mlflow.pytorch.load_model(path)
    devices = {str(tensor.device) for tensor in module.state_dict().values()} - {"cpu"}
    if devices:
        raise ModelError(f"{target} was exported on {', '.join(sorted(devices))}; export it on the CPU as train does")

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return answer

    model = ServedModel(target, classes, shape, metadata, forward)
    _warm(model)
    return model


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

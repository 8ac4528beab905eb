"""Reference predictions: a model goes into service only if it answers evaluate's test images as it did there."""

from __future__ import annotations

import numpy as np

from tasks.errors import ModelError
from tasks.serving.model import PreparedModel, ServedModel, open_prepared
from tasks.vision.data.images import decode


def open_verified(prepared: PreparedModel, processes: int = 1) -> ServedModel:
    """Open a model, and compare its answers with the reference predictions, if the pipeline evaluated it.

    Raises:
        ModelError: it cannot be opened, or answers differently.
        MlflowException: it contains pickled objects.
    """
    model = open_prepared(prepared, processes)
    reference = prepared.reference
    if reference is None:
        return model
    channels, size, _ = model.shape
    images = np.stack([decode(prediction.image, channels, size) for prediction in reference.predictions])
    expected = np.array([prediction.probabilities for prediction in reference.predictions], dtype=np.float32)
    answers = model.predict(images)
    if answers.shape != expected.shape:
        raise ModelError(f"{model.target} answers {answers.shape}, evaluate got {expected.shape}; train it again")
    differences = np.abs(answers - expected).max(1)
    worst = int(differences.argmax())
    if not differences[worst] <= reference.tolerance:  # also when it is NaN
        raise ModelError(
            f"{model.target} answers reference image {reference.predictions[worst].name!r} "
            "differently than in evaluate "
            f"(a probability differs by {differences[worst]:.2g}, allowed {reference.tolerance:g}); the old model stays"
        )
    return model

"""Reference predictions: a model goes into service only if it answers evaluate's test images as it did there."""

from __future__ import annotations

import numpy as np

from tasks.errors import DataError, ModelError
from tasks.serving.model import ServedModel, load
from tasks.serving.model_reference import Target
from tasks.vision.data.images import decode


def load_verified(target: Target) -> ServedModel:
    """Load a model and compare its answers with the reference predictions, if the pipeline evaluated it.

    Raises:
        ModelError: it cannot be loaded, or answers differently.
        MlflowException: it contains pickled objects, or MLflow or its store does not answer.
    """
    model = load(target)
    if target.evaluate_run_id is not None:
        compare(model, target.evaluate_run_id)
    return model


def compare(model: ServedModel, evaluate_run_id: str) -> None:
    """Compare the answers of `model` with the reference predictions of an evaluate run.

    Raises:
        ModelError: there are none, or an answer differs by more than their tolerance.
    """
    # Imported here: MLflow takes seconds to import, and the follower's thread has done so by now.
    from tasks.records.reference_predictions import read_reference_predictions

    try:
        reference = read_reference_predictions(evaluate_run_id, str(model.target))
    except DataError as error:
        raise ModelError(str(error)) from error
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

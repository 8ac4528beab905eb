"""Fetches a model from MLflow and checks it, so that processes without MLflow can open it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow

from tasks.errors import DataError, ModelError
from tasks.records import artifact_digest
from tasks.records.reference_predictions import read_reference_predictions
from tasks.serving.model import PreparedModel
from tasks.serving.model_description import ModelDescription
from tasks.serving.model_reference import Target
from tasks.serving.runtimes import ONNX, onnx_file, runtime_of


@contextmanager
def prepared_model(target: Target) -> Iterator[PreparedModel]:
    """Fetch a model into a temporary folder, for as long as the caller needs its files; see `prepare`."""
    with tempfile.TemporaryDirectory(prefix="serving-model-") as folder:
        yield prepare(target, Path(folder))


def prepare(target: Target, folder: Path) -> PreparedModel:
    """Fetch a model into a folder, and what it answered in evaluate; check what can be checked without opening it.

    Raises:
        ModelError: its files are not those registered, it has no classes or input shape, contains code, or lacks the
            reference predictions of the evaluation that it names.
        MlflowException: MLflow or its store does not answer.
    """
    path = Path(mlflow.artifacts.download_artifacts(artifact_uri=target.uri, dst_path=str(folder)))
    if target.artifact_sha256 is not None:
        artifact_digest.require(path, target.artifact_sha256, str(target))
    description = ModelDescription.of(path)
    metadata = dict(description.metadata)
    classes, shape = _described(target, metadata)
    try:
        runtime = runtime_of(description)
        files = onnx_file(path, description) if runtime == ONNX else path
    except ModelError as error:
        raise ModelError(f"{target}: {error}") from error
    reference = None
    if target.evaluate_run_id is not None:
        try:
            reference = read_reference_predictions(target.evaluate_run_id, str(target))
        except DataError as error:
            raise ModelError(str(error)) from error
    return PreparedModel(target, classes, shape, metadata, runtime, files, reference)


def _described(target: Target, metadata: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    classes, shape = metadata.get("classes"), metadata.get("input")
    if not isinstance(classes, list) or len(classes) < 2 or len(set(classes)) != len(classes):
        raise ModelError(f"{target}: metadata 'classes' is {classes!r}; log the model with a list of its class names")
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise ModelError(f"{target}: metadata 'input' is {shape!r}; log the model with [channels, side, side]")
    return tuple(map(str, classes)), (int(shape[0]), int(shape[1]), int(shape[2]))

"""Logs small classifiers as train does, and as the releases did whose models had no ONNX form."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import mlflow
import mlflow.pytorch
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, infer_signature
from numpy.typing import NDArray
from torch import nn

from tasks.files import sha256
from tasks.records import model_store
from tasks.vision.models import onnx_form

_convert = onnx_form.export
_converted: dict[str, bytes] = {}


def log_model(
    classifier: nn.Module, example: NDArray[np.uint8], classes: Sequence[str], about: Mapping[str, object]
) -> str:
    """Log a classifier to the active run in both forms; its URI."""
    run, client = mlflow.active_run(), MlflowClient()
    assert run is not None
    model = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory() as folder:
        described = Model(
            model.artifact_location, run_id=run.info.run_id, model_uuid=model.model_id, model_id=model.model_id
        )
        with mock.patch.object(onnx_form, "export", convert_once):
            model_store.save(classifier.eval(), Path(folder), described, example, classes, about)
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return f"models:/{model.model_id}"


def convert_once(program: Path, target: Path) -> None:
    """Convert a program to ONNX, which takes seconds: the same one, which many tests log, only once a process."""
    digest = sha256(program)
    if digest not in _converted:
        _convert(program, target)
        _converted[digest] = target.read_bytes()
    target.write_bytes(_converted[digest])


def log_without_onnx(
    classifier: nn.Module, example: NDArray[np.uint8], classes: Sequence[str], about: Mapping[str, object]
) -> str:
    """Log a classifier to the active run as an exported program only; its URI."""
    info = mlflow.pytorch.log_model(
        classifier.eval(),
        name="model",
        serialization_format="pt2",
        input_example=example,
        signature=infer_signature(example, np.zeros((len(example), len(classes)), np.float32)),
        metadata={"classes": list(classes), "input": list(example.shape[1:]), **about},
        pip_requirements=["torch"],
    )
    return str(info.model_uri)

"""Logs small classifiers as train does, and as the releases did whose models had no ONNX form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from tasks.vision.models.classifier import digest

Save = Callable[[nn.Module, Path, Model, NDArray[np.uint8], Sequence[str], Mapping[str, object]], None]
_convert = onnx_form.export
_converted: dict[str, bytes] = {}
_saved: dict[object, dict[str, bytes]] = {}


def log_model(
    classifier: nn.Module, example: NDArray[np.uint8], classes: Sequence[str], about: Mapping[str, object]
) -> str:
    """Log a classifier to the active run in both forms; its URI."""
    return _log(model_store.save, classifier, example, classes, about)


def log_without_onnx(
    classifier: nn.Module, example: NDArray[np.uint8], classes: Sequence[str], about: Mapping[str, object]
) -> str:
    """Log a classifier to the active run as an exported program only; its URI."""
    return _log(_save_without_onnx, classifier, example, classes, about)


def convert_once(program: Path, target: Path) -> None:
    """Convert a program to ONNX, which takes seconds: the same one only once a process."""
    content = sha256(program)
    if content not in _converted:
        _convert(program, target)
        _converted[content] = target.read_bytes()
    target.write_bytes(_converted[content])


def _log(
    save: Save,
    classifier: nn.Module,
    example: NDArray[np.uint8],
    classes: Sequence[str],
    about: Mapping[str, object],
) -> str:
    run, client = mlflow.active_run(), MlflowClient()
    assert run is not None
    model = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in _files(save, classifier.eval(), example, classes, about).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        description = Model.load(str(folder / "MLmodel"))
        description.artifact_path, description.run_id = model.artifact_location, run.info.run_id
        description.model_uuid = description.model_id = model.model_id
        description.save(str(folder / "MLmodel"))
        client.log_model_artifacts(model.model_id, name)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return f"models:/{model.model_id}"


def _files(
    save: Save,
    classifier: nn.Module,
    example: NDArray[np.uint8],
    classes: Sequence[str],
    about: Mapping[str, object],
) -> dict[str, bytes]:
    """Return the files of a saved model: of the same one, which many tests log, made only once a process."""
    own = {name: value for name, value in vars(classifier).items() if name not in vars(nn.Module())}
    key = (save, type(classifier), f"{classifier} {own}", digest(classifier), example.tobytes(), example.shape,
           tuple(classes), repr(about))  # fmt: skip
    if key not in _saved:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(classifier, folder, Model(), example, classes, about)
            files = [path for path in folder.rglob("*") if path.is_file()]
            _saved[key] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return _saved[key]


def _save_without_onnx(
    classifier: nn.Module,
    folder: Path,
    description: Model,
    example: NDArray[np.uint8],
    classes: Sequence[str],
    about: Mapping[str, object],
) -> None:
    mlflow.pytorch.save_model(
        classifier,
        str(folder),
        mlflow_model=description,
        serialization_format="pt2",
        input_example=example,
        signature=infer_signature(example, np.zeros((len(example), len(classes)), np.float32)),
        metadata={"classes": list(classes), "input": list(example.shape[1:]), **about},
        pip_requirements=["torch"],
    )

"""Stores a classifier: as the logged model `model` of the run that trained or compressed it, once per run."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray
from torch import nn

from tasks.records import artifact_digest, onnx_forms, queries, registry, removed_weights
from tasks.records.tracking import StageRun
from tasks.vision.data.gold import Gold
from tasks.vision.models import onnx_form
from tasks.vision.models.classifier import Classifier, digest

NAME = "model"
# Listed here, because MLflow would otherwise load the model in a separate process to find out.
REQUIREMENTS = ("mlflow-skinny", "torch", "numpy")
# With a batch of one, torch.export would fix the batch size to one.
EXAMPLES = 4
PROGRAM, ONNX = "data/model.pt2", "data/model.onnx"

log = logging.getLogger("tasks.train")


def log_once(classifier: Classifier, gold: Gold, architecture: str, run: StageRun) -> str:
    """Log `classifier` (on the CPU, in evaluation mode) to the active run, in both of its forms (see `save`).

    It takes uint8 images [N, C, H, W] and returns float32 probabilities [N, classes]. An earlier try of the stage may
    have logged it already, or have been killed meanwhile: a complete model with the same weights is reused, an
    unfinished one is finished, any other is deleted.

    Returns:
        Its URI, `models:/m-...`.
    """
    sha256 = digest(classifier)
    about = {"fingerprint": gold.fingerprint, "architecture": architecture, "sha256": sha256}
    images = gold.validation.images
    example = images[np.arange(EXAMPLES) % len(images)]

    def write(folder: Path, description: Model) -> None:
        save(classifier, folder, description, example, gold.classes, about)

    return _log_once(run, sha256, write)


def log_onnx_once(file: Path, gold: Gold, sha256: str, about: Mapping[str, str], run: StageRun) -> str:
    """Log an ONNX file to the active run as a model with no other form; otherwise as `log_once`.

    Args:
        file: from uint8 images [N, C, H, W] to float32 probabilities [N, classes].
        gold: the data that the model was trained on.
        sha256: digest of the model.
        about: more metadata.
        run: the run that the model belongs to.

    Returns:
        Its URI, `models:/m-...`.
    """

    def write(folder: Path, description: Model) -> None:
        description.signature = _signature(gold.shape, gold.classes)
        description.metadata = _metadata(gold.shape, gold.classes, {**about, "sha256": sha256})
        (folder / ONNX).parent.mkdir()
        shutil.copyfile(file, folder / ONNX)
        onnx_forms.describe(description, folder, ONNX)

    return _log_once(run, sha256, write)


def _log_once(run: StageRun, sha256: str, write: Callable[[Path, Model], None]) -> str:
    model = _keep_one(run, sha256) or _begin(run, sha256)
    removed = removed_weights.TAG in MlflowClient().get_run(run.run_id).data.tags  # since an earlier try logged it
    if removed or model.status != LoggedModelStatus.READY:
        _write(model, write)
    if removed:
        MlflowClient().delete_tag(run.run_id, removed_weights.TAG)
    return f"models:/{model.model_id}"


def _begin(run: StageRun, sha256: str) -> LoggedModel:
    """Create the logged model, without files yet."""
    client = MlflowClient()
    params = client.get_run(run.run_id).data.params
    return client.create_logged_model(run.experiment_id, NAME, run.run_id, {registry.SHA256: sha256}, params)


def _write(model: LoggedModel, write: Callable[[Path, Model], None]) -> None:
    """Write the files of a model that is not ready, and mark it ready.

    In separate steps, because `mlflow.pytorch.log_model` cannot resume an unfinished model, and a second one would
    leave the run with two outputs, one of them deleted.
    """
    client, run_id = MlflowClient(), str(model.source_run_id)
    outputs = client.get_run(run_id).outputs
    if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        # MLflow's pages and loaders need the final location, not this temporary folder.
        description = Model(model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
        write(Path(folder), description)
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def save(
    classifier: nn.Module,
    folder: Path,
    description: Model,
    example: NDArray[np.uint8],
    classes: Sequence[str],
    about: Mapping[str, object],
) -> None:
    """Write a classifier to an empty folder as an MLflow model with two forms of the same weights, both free of pickle.

    `data/model.onnx` is what the service runs (MLflow's flavor `onnx`), and `data/model.pt2` what torch loads, to
    train on and to compare (flavor `pytorch`).

    Args:
        classifier: from uint8 images [N, C, H, W] to float32 probabilities [N, classes].
        folder: where to write.
        description: the MLmodel file to be, with what identifies the model.
        example: uint8 images, more than one: torch.export would fix the number of images to one.
        classes: names, in the order of the probabilities.
        about: more metadata.

    Raises:
        ModelError: the classifier has no ONNX form.
    """
    shape = example.shape[1:]
    mlflow.pytorch.save_model(
        classifier,
        str(folder),
        mlflow_model=description,
        serialization_format="pt2",
        input_example=example,
        signature=_signature(shape, classes),
        metadata=_metadata(shape, classes, about),
        pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
    )
    start = time.perf_counter()
    onnx_form.export(folder / PROGRAM, folder / ONNX)
    log.info("exported to ONNX in %.1f s, %.1f MB", time.perf_counter() - start, (folder / ONNX).stat().st_size / 1e6)
    onnx_forms.describe(description, folder, ONNX)


def _signature(shape: tuple[int, ...], classes: Sequence[str]) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(classes)))]),
    )


def _metadata(shape: tuple[int, ...], classes: Sequence[str], about: Mapping[str, object]) -> dict[str, object]:
    return {"classes": list(classes), "input": list(shape), **about}


def _keep_one(run: StageRun, sha256: str) -> LoggedModel | None:
    """Return the run's logged model with this digest, preferably a complete one, and delete all others."""
    client = MlflowClient()
    models = queries.logged_models(run.experiment_id, run.run_id)
    same = [model for model in models if model.tags.get(registry.SHA256) == sha256]
    kept = min(same, key=lambda model: model.status != LoggedModelStatus.READY, default=None)
    for model in models:
        if kept is None or model.model_id != kept.model_id:
            client.delete_logged_model(model.model_id)
    return kept


def _version(package: str) -> str:
    """Return the version of an installed package, without the build (`+cu130`), which package indexes do not know."""
    return importlib.metadata.version(package).partition("+")[0]


def artifact_sha256(uri: str) -> str:
    """Download a logged model from its store and return the digest of its files."""
    with tempfile.TemporaryDirectory() as folder:
        return artifact_digest.digest(Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)))

"""Where a trained classifier lies: the logged model `model` of its train run, made once per run."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from tasks import artifact_digest, registry
from tasks.tracking import StageRun
from tasks.vision.gold import Gold
from tasks.vision.models import Classifier, digest

NAME = "model"
# Said here, because MLflow would otherwise load the model in a process of its own to find out.
REQUIREMENTS = ("mlflow-skinny", "torch", "numpy")
# torch.export takes a batch of one for a model of batches of one.
EXAMPLES = 4


def log_once(classifier: Classifier, gold: Gold, architecture: str, run: StageRun) -> str:
    """Log `classifier` (on the CPU, in evaluation mode) to the active run, as an exported graph without pickle.

    It takes uint8 images [N, C, H, W] and returns float32 probabilities [N, classes]. An earlier try of the stage may
    have logged it already, or have been killed while it did: a whole one with the same weights is used again,
    anything else that it left is deleted.

    Returns:
        Its address, `models:/m-...`.
    """
    sha256 = digest(classifier)
    kept = _keep_one(run, sha256)
    if kept is not None:
        return kept
    images = gold.validation.images
    example = images[np.arange(EXAMPLES) % len(images)]
    info = mlflow.pytorch.log_model(
        classifier,
        name=NAME,
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *gold.shape))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(gold.classes)))]),
        ),
        metadata={
            "classes": list(gold.classes),
            "input": list(gold.shape),
            "architecture": architecture,
            "fingerprint": gold.fingerprint,
            "sha256": sha256,
        },
        tags={registry.SHA256: sha256},
        pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
    )
    return f"models:/{info.model_id}"


def _keep_one(run: StageRun, sha256: str) -> str | None:
    """Return the address of the run's whole logged model with this digest, if any; delete every other one."""
    client, kept = MlflowClient(), None
    for model in client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'"):
        whole = model.status == LoggedModelStatus.READY and model.tags.get(registry.SHA256) == sha256
        if whole and kept is None:
            kept = f"models:/{model.model_id}"
        else:
            client.delete_logged_model(model.model_id)
    return kept


def _version(package: str) -> str:
    """Version of an installed package, without the build (`+cu130`) that package indexes do not know."""
    return importlib.metadata.version(package).partition("+")[0]


def artifact_sha256(uri: str) -> str:
    """Fetch a logged model back from its store and return the digest of its files."""
    with tempfile.TemporaryDirectory() as folder:
        return artifact_digest.digest(Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)))

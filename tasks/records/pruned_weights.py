"""The weights of a pruned network, kept in the run before it is trained on: a retry trains the same network.

Pruned again on another processor, it might lose other channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import DataError
from tasks.files import sha256

FILE = "pruned.safetensors"
SHA256 = "pipeline.pruned_sha256"  # tag of the run, set when the file is there


def keep(run_id: str, weights: Mapping[str, Tensor]) -> None:
    """Write the weights to the run."""
    with tempfile.TemporaryDirectory(prefix="pruned-") as folder:
        path = Path(folder) / FILE
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
        MlflowClient().log_artifact(run_id, str(path))
        MlflowClient().set_tag(run_id, SHA256, sha256(path))


def find(run_id: str) -> dict[str, Tensor] | None:
    """Return what an earlier try kept; None if there is nothing yet.

    Raises:
        DataError: the file was changed.
    """
    expected = MlflowClient().get_run(run_id).data.tags.get(SHA256)
    if expected is None:
        return None
    with tempfile.TemporaryDirectory(prefix="pruned-") as folder:
        path = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=FILE, dst_path=folder))
        if sha256(path) != expected:
            raise DataError(f"{FILE} of run {run_id} was changed; start a new DAG run")
        return load_file(path)

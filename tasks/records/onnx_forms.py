"""ONNX forms made after registration, for versions of releases that logged none (docs/decisions/0022).

A logged model never changes, so such a form lies beside it: in the artifacts of the version's train run, in a folder
named after its digest. A tag of the version says where, and is written last: a form without a tag does not count.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from tasks.records import artifact_digest
from tasks.records.transient_errors import as_unavailable

TAG = "pipeline.onnx_form"
FOLDER = "onnx"
PLACE = re.compile(rf"runs:/[0-9a-f]{{32}}/{FOLDER}/([0-9a-f]{{64}})")
FLAVOR = "onnx"  # MLflow's, in a logged model's description


@dataclass(frozen=True)
class OnnxForm:
    """An ONNX form of a version: where its files are, and the digest that they must have."""

    uri: str
    artifact_sha256: str

    @classmethod
    def of(cls, version: ModelVersion) -> Self | None:
        """Read the tag of a version; None if it has none, or one that this project did not write."""
        place = PLACE.fullmatch(version.tags.get(TAG, ""))
        return cls(place[0], place[1]) if place else None

    @property
    def is_intact(self) -> bool:
        """Whether the store has its files, unchanged."""
        with tempfile.TemporaryDirectory(prefix="onnx-form-") as folder:
            try:
                files = mlflow.artifacts.download_artifacts(artifact_uri=self.uri, dst_path=folder)
            except (MlflowException, OSError) as error:
                if as_unavailable(error) is not None:
                    raise
                return False
            return artifact_digest.digest(Path(files)) == self.artifact_sha256


def logged(version: ModelVersion) -> bool:
    """Whether the logged model of a version has an ONNX form of its own."""
    return FLAVOR in Model.load(f"models:/{version.name}/{version.version}").flavors


def describe(description: Model, folder: Path, file: str) -> None:
    """Add the flavor `onnx` to a model's description, and write it to the model's folder.

    Args:
        description: the MLmodel file to be.
        folder: of the model.
        file: the ONNX file in it.
    """
    description.add_flavor(
        FLAVOR,
        onnx_version=importlib.metadata.version("onnx"),
        data=file,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    description.save(str(folder / "MLmodel"))


def store(version: ModelVersion, folder: Path) -> OnnxForm:
    """Upload the form in `folder` to the version's train run, then tag the version with it.

    A second try after a kill writes the same files to the same place.
    """
    digest = artifact_digest.digest(folder)
    client, place = MlflowClient(), f"{FOLDER}/{digest}"
    client.log_artifacts(str(version.run_id), str(folder), place)
    form = OnnxForm(f"runs:/{version.run_id}/{place}", digest)
    client.set_model_version_tag(version.name, str(version.version), TAG, form.uri)
    return form

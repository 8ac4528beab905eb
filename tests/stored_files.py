"""The files of runs and models in a store that is a folder, as somebody with a key to the bucket finds them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient


def of_run(run_id: str) -> Path:
    """The folder with the artifacts of a run."""
    return _path(MlflowClient().get_run(run_id).info.artifact_uri)


def of_model(uri: str) -> Path:
    """The folder of a logged model, by its URI models:/ID."""
    return _path(MlflowClient().get_logged_model(uri.removeprefix("models:/")).artifact_location)


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))

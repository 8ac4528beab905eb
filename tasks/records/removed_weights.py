"""Weights that were removed on purpose: a tag of the run, and of each version made of it, says when and why.

The tag is written before the first file goes. Whoever meets a model without files, or with a part of them, can so tell
a removal from damage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import ModelError

TAG = "pipeline.weights_removed"
FILES = "data"  # folder of a logged model with its weights, in all forms; its description stays


def require(tags: Mapping[str, str], what: str, fix: str) -> None:
    """Require that the weights of a run or a version were not removed.

    Args:
        tags: of the run or the version.
        what: it is, for the message.
        fix: what to do.

    Raises:
        ModelError: they were.
    """
    if TAG in tags:
        raise ModelError(f"the weights of {what} were removed ({tags[TAG]}); {fix}")


def mark(run_id: str, versions: Iterable[ModelVersion], text: str) -> None:
    """Say that the weights of a run go, before they do; what an interrupted removal said stays."""
    client = MlflowClient()
    for version in versions:
        if TAG not in version.tags:
            client.set_model_version_tag(version.name, str(version.version), TAG, text)
    if TAG not in client.get_run(run_id).data.tags:
        client.set_tag(run_id, TAG, text)

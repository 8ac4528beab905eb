"""Artifacts whose SHA-256 is a tag of their run, so that a change in the store shows when they are read.

A key to the bucket is enough to change an artifact; a tag can only be set through MLflow. A run of a release that set
no tags is read as it is: nobody without MLflow can take a tag away. What another stage did to the tags since shows by
what the result of the run's stage said of them (`tracking.RunTags`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from tasks.errors import ChangedError
from tasks.files import sha256

TAG = "pipeline.sha256."  # and the artifact's path in its run


def log_texts(texts: Mapping[str, str]) -> None:
    """Log texts to the active run, by their paths, each a name without a folder."""
    with tempfile.TemporaryDirectory(prefix="artifacts-") as folder:
        for name, text in texts.items():
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            mlflow.log_artifact(str(path))
        mlflow.set_tags(_tags(_digests(Path(folder))))


def log_folder(folder: Path, place: str) -> dict[str, str]:
    """Log all files of a folder to the artifact folder `place` of the active run; returns their SHA-256 by name."""
    mlflow.log_artifacts(str(folder), place)
    digests = _digests(folder)
    mlflow.set_tags(_tags(digests, f"{place}/"))
    return digests


def read_text(run_id: str, path: str, fix: str, tags: Mapping[str, str] | None = None) -> str:
    """Read an artifact of a run as UTF-8.

    Args:
        run_id: the run.
        path: of the artifact in the run.
        fix: what to do if it was changed, for the message.
        tags: of the run, where the caller has read and checked them.

    Raises:
        ChangedError: it is not what was logged.
        MlflowException, OSError: there is no such run or artifact, or the store does not answer.
    """
    logged = tags if tags is not None else MlflowClient().get_run(run_id).data.tags
    with tempfile.TemporaryDirectory(prefix="artifact-") as folder:
        file = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder))
        if (expected := logged.get(f"{TAG}{path}")) is not None:
            _require(sha256(file), expected, f"{path} of run {run_id}", fix)
        return file.read_text(encoding="utf-8")


def require_folder(run_id: str, place: str, folder: Path, fix: str) -> dict[str, str]:
    """Require that the files of a downloaded artifact folder are those that were logged; arguments as in `read_text`.

    Returns:
        Their SHA-256 by name.

    Raises:
        ChangedError: a file is not what was logged, or is one too many.
    """
    logged, digests = MlflowClient().get_run(run_id).data.tags, _digests(folder)
    if has_digests(logged, place):
        for name, digest in digests.items():
            _require(digest, logged.get(f"{TAG}{place}/{name}"), f"{place}/{name} of run {run_id}", fix)
    return digests


def adopt_folder(run_id: str, place: str, digests: Mapping[str, str]) -> None:
    """Take the files of a run without digests as they are from now on."""
    for name, digest in _tags(digests, f"{place}/").items():
        MlflowClient().set_tag(run_id, name, digest)


def has_digests(tags: Mapping[str, str], place: str) -> bool:
    """Tell by the tags of a run whether its artifact folder `place` was logged with digests."""
    return any(name.startswith(f"{TAG}{place}/") for name in tags)


def _require(found: str, expected: str | None, what: str, fix: str) -> None:
    """Raise ChangedError unless a file's digest is this one; None: it was not logged at all."""
    if found != expected:
        was = f"logged with {expected[:12]}..." if expected else "not logged by the stage"
        raise ChangedError(
            f"{what} was changed in the store (SHA-256 {found[:12]}..., {was}); {fix}, and find out "
            "who can write to the store"
        )


def _tags(digests: Mapping[str, str], place: str = "") -> dict[str, str]:
    return {f"{TAG}{place}{name}": digest for name, digest in digests.items()}


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}

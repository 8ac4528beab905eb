"""Artifacts whose SHA-256 is a tag of their run, so that a change in the store shows when they are read.

A key to the bucket is enough to change an artifact; a tag can only be set through MLflow. A run of a release that set
no tags is read as it is: nobody without MLflow can take a tag away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
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
        mlflow.set_tags(_tags(Path(folder)))


def log_folder(folder: Path, place: str) -> None:
    """Log all files of a folder to the artifact folder `place` of the active run."""
    mlflow.log_artifacts(str(folder), place)
    mlflow.set_tags(_tags(folder, f"{place}/"))


def read_text(run_id: str, path: str, fix: str) -> str:
    """Read an artifact of a run as UTF-8.

    Args:
        run_id: the run.
        path: of the artifact in the run.
        fix: what to do if it was changed, for the message.

    Raises:
        ChangedError: it is not what was logged.
        MlflowException, OSError: there is no such run or artifact, or the store does not answer.
    """
    logged = MlflowClient().get_run(run_id).data.tags
    with tempfile.TemporaryDirectory(prefix="artifact-") as folder:
        file = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder))
        if (expected := logged.get(f"{TAG}{path}")) is not None:
            _require(file, expected, f"{path} of run {run_id}", fix)
        return file.read_text(encoding="utf-8")


def require_folder(run_id: str, place: str, folder: Path, fix: str) -> None:
    """Require that the files of a downloaded artifact folder are those that were logged; arguments as in `read_text`.

    Raises:
        ChangedError: a file is not what was logged, or is one too many.
    """
    logged = MlflowClient().get_run(run_id).data.tags
    if not has_digests(logged, place):
        return
    for file in _files(folder):
        path = f"{place}/{file.relative_to(folder).as_posix()}"
        _require(file, logged.get(f"{TAG}{path}"), f"{path} of run {run_id}", fix)


def adopt_folder(run_id: str, place: str, folder: Path) -> None:
    """Take the files of a run without digests as they are from now on."""
    for name, digest in _tags(folder, f"{place}/").items():
        MlflowClient().set_tag(run_id, name, digest)


def has_digests(tags: Mapping[str, str], place: str) -> bool:
    """Tell by the tags of a run whether its artifact folder `place` was logged with digests."""
    return any(name.startswith(f"{TAG}{place}/") for name in tags)


def _require(file: Path, expected: str | None, what: str, fix: str) -> None:
    """Raise ChangedError unless the file has this digest; None: it was not logged at all."""
    found = sha256(file)
    if found != expected:
        was = f"logged with {expected[:12]}..." if expected else "not logged by the stage"
        raise ChangedError(
            f"{what} was changed in the store (SHA-256 {found[:12]}..., {was}); {fix}, and find out "
            "who can write to the store"
        )


def _tags(folder: Path, place: str = "") -> dict[str, str]:
    return {f"{TAG}{place}{file.relative_to(folder).as_posix()}": sha256(file) for file in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())

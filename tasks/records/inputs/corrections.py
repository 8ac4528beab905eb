"""Reads corrections of labels from where a request says: a file, S3, or an artifact of a run in MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL
from mlflow.exceptions import MlflowException

from tasks.contract.data import RUN_ARTIFACT
from tasks.errors import DataError, PipelineError
from tasks.records.tracking import http_status
from tasks.vision.data.corrections import MAX_BYTES, Corrections, parse
from tasks.vision.data.names import safe_name


def read_corrections(asked: str) -> Corrections:
    """Read corrections once, before anything else is downloaded.

    Args:
        asked: a path, `s3://BUCKET/KEY` or `runs:/RUN_ID/PATH`.

    Raises:
        DataError: there is no such file, it has over `MAX_BYTES`, or it is no table of corrections.
        SettingsError: the S3 store refuses the credentials.
        UnavailableError: the S3 store does not answer.
    """
    try:
        data = _bytes(asked)
    except PipelineError as error:
        raise type(error)(f"corrections={asked!r}: {error}") from error
    return parse(asked, data)


def _bytes(asked: str) -> bytes:
    if asked.startswith("s3://"):
        from tasks.vision.data import s3  # boto3 takes half a second

        return s3.read(asked, MAX_BYTES, MLFLOW_S3_ENDPOINT_URL.get())  # type: ignore[no-untyped-call]  # as the source
    if found := RUN_ARTIFACT.fullmatch(asked):
        return _of_run(found["run_id"], safe_name(found["path"], "the address"))
    return _of_file(Path(asked).expanduser())


def _of_file(path: Path) -> bytes:
    if not path.is_file():
        raise DataError("no such file where this stage runs; correct the path, or give an s3:// or runs:/ address")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); allow the user of this stage to read it") from error
    return _bounded(data, len(data))


def _of_run(run_id: str, path: str) -> bytes:
    client = MlflowClient()
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        raise DataError(f"MLflow has no run {run_id!r}; correct the ID") from error
    siblings = client.list_artifacts(run_id, path.rpartition("/")[0] or None)
    file = next((one for one in siblings if one.path == path and not one.is_dir), None)
    if file is None:
        have = ", ".join(repr(one.path) for one in siblings if not one.is_dir) or "no files"
        raise DataError(f"the run has no file {path!r} there (it has {have[:200]}); correct the path")
    _bounded(b"", file.file_size or 0)
    with tempfile.TemporaryDirectory(prefix="corrections-") as folder:
        found = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder)
        return _of_file(Path(found))


def _bounded(data: bytes, size: int) -> bytes:
    if size > MAX_BYTES:
        raise DataError(f"over {MAX_BYTES} bytes; give a table of corrections only")
    return data

"""Where predictions go: a local folder, a prefix of an S3 store, or the artifacts of the MLflow run.

Each file appears whole or not at all, except as an artifact in a store that is a folder; `output` notices that.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

import mlflow

from tasks.errors import SettingsError, UnavailableError
from tasks.files import PUBLIC, replacing

S3 = "s3://"
# What a kill leaves of a file that was being written (`tasks.files.replacing`).
UNFINISHED = re.compile(r"\.(part-\d+\.(parquet|csv|json)|_plan\.json|_SUCCESS)\.\w{8}")


class Destination(Protocol):
    """A place for files, which are named by their path below it.

    Attributes:
        where: how a person finds it.
    """

    where: str

    def sizes(self, folders: tuple[str, ...]) -> dict[str, int]:
        """Return the bytes of each file in it, or directly in one of these folders of it."""
        ...

    def read(self, name: str) -> bytes:
        """Return a small file."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Write a file under a name, in place of one that is there."""
        ...


class LocalFolder:
    """A folder on this machine, which is made if it is missing."""

    def __init__(self, path: Path) -> None:
        """Make the folder, and remove what a killed try left unfinished.

        Raises:
            SettingsError: it cannot be made or written.
        """
        self.path = path.expanduser().absolute()
        self.where = str(self.path)
        with _failures_named(self.where):
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, *(one for one in self.path.iterdir() if one.is_dir())):
                for file in folder.glob(".*"):
                    if UNFINISHED.fullmatch(file.name):
                        file.unlink()

    def sizes(self, folders: tuple[str, ...]) -> dict[str, int]:
        """See `Destination`."""
        with _failures_named(self.where):
            found = [file for folder in ("", *folders) for file in (self.path / folder).glob("[!.]*") if file.is_file()]
            return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in found}

    def read(self, name: str) -> bytes:
        """See `Destination`."""
        with _failures_named(self.where):
            return (self.path / name).read_bytes()

    def put(self, file: Path, name: str) -> None:
        """See `Destination`.

        Raises:
            SettingsError: the folder cannot be written.
            UnavailableError: the disk is full.
        """
        target = self.path / name
        with _failures_named(self.where):
            target.parent.mkdir(exist_ok=True)
            with file.open("rb") as whole, replacing(target, PUBLIC) as copy:
                shutil.copyfileobj(whole, copy)


class S3Prefix:
    """A prefix of an S3 store."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        """Take the address; raises SettingsError if the settings for the store cannot be used."""
        from tasks.vision.data import s3

        self.where = f"{url.rstrip('/')}/"
        self._bucket, self._prefix = s3.location(self.where)
        with s3.failures_named(self.where, "out", "written"):
            self._client = s3.connected(endpoint)

    def sizes(self, folders: tuple[str, ...]) -> dict[str, int]:
        """See `Destination`."""
        from tasks.vision.data import s3

        found: dict[str, int] = {}
        with s3.failures_named(self.where, "out", "read"):
            for folder in ("", *(f"{folder}/" for folder in folders)):
                asked = {"Bucket": self._bucket, "Prefix": self._prefix + folder, "Delimiter": "/"}
                for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                    for one in page.get("Contents", []):
                        found[one["Key"].removeprefix(self._prefix)] = one["Size"]
        return found

    def read(self, name: str) -> bytes:
        """See `Destination`."""
        from tasks.vision.data import s3

        with s3.failures_named(self.where, "out", "read"):
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read())

    def put(self, file: Path, name: str) -> None:
        """See `Destination`.

        Raises:
            DataError: there is no such bucket.
            SettingsError: the store refuses the user.
            UnavailableError: the store does not answer.
        """
        from boto3.exceptions import S3UploadFailedError

        from tasks.vision.data import s3

        with s3.failures_named(self.where, "out", "written"):
            try:
                self._client.upload_file(str(file), self._bucket, self._prefix + name)
            except S3UploadFailedError as error:  # says no more than its cause
                raise (error.__context__ or error) from error


class RunArtifacts:
    """The artifacts of an MLflow run."""

    def __init__(self, run_id: str) -> None:
        """Take the run, which is the active one."""
        self.where = f"runs:/{run_id}"
        self._run_id = run_id

    def sizes(self, folders: tuple[str, ...]) -> dict[str, int]:
        """See `Destination`."""
        found: dict[str, int] = {}
        for folder in ("", *folders):
            for one in mlflow.artifacts.list_artifacts(run_id=self._run_id, artifact_path=folder or None):
                if not one.is_dir:
                    found[one.path] = one.file_size or 0  # of a store that tells none: the part is made again
        return found

    def read(self, name: str) -> bytes:
        """See `Destination`."""
        with tempfile.TemporaryDirectory() as folder:
            path = mlflow.artifacts.download_artifacts(run_id=self._run_id, artifact_path=name, dst_path=folder)
            return Path(path).read_bytes()

    def put(self, file: Path, name: str) -> None:
        """See `Destination`."""
        parent = PurePosixPath(name).parent.as_posix()
        mlflow.log_artifact(str(file), None if parent == "." else parent)


def destination(out: str | None, run_id: str, endpoint: str | None) -> Destination:
    """Open the place that a request names; the artifacts of the run where it names none.

    Raises:
        SettingsError: it cannot be written.
    """
    if out is None:
        return RunArtifacts(run_id)
    return S3Prefix(out, endpoint) if out.startswith(S3) else LocalFolder(Path(out))


@contextmanager
def _failures_named(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnavailableError(
                f"out={where!r}: no space is left ({error.strerror}); free some, then the run goes on after its last "
                "complete part"
            ) from error
        raise SettingsError(
            f"out={where!r} cannot be written ({error.strerror or error}); check the folder and its permissions"
        ) from error

"""MLflow's S3 store with three fixes; MLflow finds it through the entry point beside this file (a plugin).

It opens the server's own root only (`MLFLOW_ARTIFACTS_DESTINATION`). What a user may see is decided by paths below it;
an `s3://` address that a user gives, as a model version's source or an experiment's location, would be read with the
server's key, whatever it holds.

A full store is reported as HTTP 507 with one line. MLflow answers 500 without a reason to everything that the store
refuses, so its clients retry for a minute and never learn the reason; they do not retry 507 (Insufficient Storage), and
`tasks/records/transient_errors.py` recognises it.

Old clients of the store are closed. MLflow creates one every five minutes (`_MAX_CACHE_SECONDS`) and keeps the last 64,
each with connections that the store closed long ago: about a hundred sockets after a few hours (`make soak` found it).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact import s3_artifact_repo
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

# Error codes of Ceph and MinIO; other servers send codes of their own with the status 507.
FULL_CODES = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
FULL_STATUS = 507
CLIENTS = 2  # the one in use, and the one that an upload may have begun with


class StoreFullError(MlflowException):
    """The store is full."""

    def get_http_status_code(self) -> int:
        """507, for which MLflow has no error code."""
        return FULL_STATUS


@contextmanager
def _full_store_named() -> Iterator[None]:
    try:
        yield
    except (ClientError, S3UploadFailedError) as error:
        # boto3 wraps the refusal of an upload and keeps only its text.
        refusal = error if isinstance(error, ClientError) else error.__context__
        if not isinstance(refusal, ClientError):
            raise
        code, status = refusal.response["Error"]["Code"], refusal.response["ResponseMetadata"]["HTTPStatusCode"]
        if code not in FULL_CODES and status != FULL_STATUS:
            raise
        raise StoreFullError(
            f"the S3 store is full ({code}); raise its quota or free space, then clear the task"
        ) from error


class S3Store(S3ArtifactRepository):
    """S3ArtifactRepository for the server's root, that reports a full store as such."""

    def __init__(self, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        """Take the address of the root.

        Raises:
            MlflowException: it is another one (403).
        """
        root = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", artifact_uri)
        if artifact_uri.rstrip("/") != root.rstrip("/"):
            raise MlflowException(
                f"{artifact_uri!r} is not read by this server: artifacts are found through their run or logged model",
                PERMISSION_DENIED,
            )
        super().__init__(artifact_uri, *arguments, **options)

    def log_artifact(self, *arguments: Any, **options: Any) -> None:
        """Upload one file."""
        with _full_store_named():
            super().log_artifact(*arguments, **options)

    def log_artifacts(self, *arguments: Any, **options: Any) -> None:
        """Upload a folder."""
        with _full_store_named():
            super().log_artifacts(*arguments, **options)

    def create_multipart_upload(self, *arguments: Any, **options: Any) -> Any:
        """Begin an upload in parts."""
        with _full_store_named():
            return super().create_multipart_upload(*arguments, **options)

    def complete_multipart_upload(self, *arguments: Any, **options: Any) -> Any:
        """End an upload in parts."""
        with _full_store_named():
            return super().complete_multipart_upload(*arguments, **options)


class NewestClients:
    """A cache of the newest clients, by their arguments; the idle connections of older ones are closed.

    Requests that still use an older client finish: closing ends only its idle connections, and it may open new ones.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        """Cache what `make` returns."""
        self._make = make
        self._clients: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return the client for these arguments."""
        key = (*arguments, *sorted(options.items()))
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._make(*arguments, **options)
                for old in list(self._clients)[:-CLIENTS]:
                    self._clients.pop(old).close()
            return self._clients[key]


s3_artifact_repo._cached_get_s3_client = NewestClients(s3_artifact_repo._cached_get_s3_client.__wrapped__)

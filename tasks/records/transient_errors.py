"""Recognises a server or store that is away, whichever library noticed it."""

from __future__ import annotations

import re

from tasks.errors import UnavailableError

# A store that takes no more, as the stack's MLflow says it (images/mlflow/s3_store.py), and as the store itself does,
# to which large files go: Ceph, MinIO (bucket quota, disk), others by HTTP status.
_FULL = re.compile(
    r"(?<=store is full \()\w+"
    r"|\b(?:QuotaExceeded|XMinioAdminBucketQuotaExceeded|XMinioStorageFull)\b"
    r"|\b507 Server Error\b(?!.*store is full)"
)
# MLflow says in JSON what it does not have; its client words another's answer so: a proxy's, a wrong address's.
_NOT_MLFLOW = re.compile(r"^API request to endpoint \S+ failed with error code (?:400|404) != \d+\. Response body:")
_STORES_WORDS = {"HTTPError", "ClientError", "S3UploadFailedError", "MlflowException", "RestException"}


def as_unavailable(error: BaseException) -> UnavailableError | None:
    """Recognise a server or store that is away, whichever library noticed it; None for anything else."""
    seen: BaseException | None = error
    while seen is not None:
        name = f"{type(seen).__module__}.{type(seen).__qualname__}"
        status = getattr(seen, "get_http_status_code", None)
        if type(seen).__name__ in _STORES_WORDS and (full := _FULL.search(str(seen))):
            return UnavailableError(
                f"the artifact store is full ({full[0]}); raise its quota or free space, a retry then goes on from here"
            )
        if isinstance(seen, ConnectionError | TimeoutError) or name in _AWAY:
            return UnavailableError(f"a server is away: {seen}"[:500])
        if (another := answered_by_another(seen)) is not None:
            return another
        if status is not None and (status() in {429, 502, 503, 504} or "Max retries exceeded" in str(seen)):
            return UnavailableError(f"MLflow or its store is away: {seen}"[:500])
        seen = seen.__cause__ or seen.__context__
    return None


def answered_by_another(error: BaseException) -> UnavailableError | None:
    """Recognise that something else than MLflow said that there is no such thing: a proxy, a wrong address."""
    if type(error).__name__ == "MlflowException" and _NOT_MLFLOW.match(str(error)):
        return UnavailableError(f"what answers at MLflow's address is not MLflow: {error}"[:500])
    return None


_AWAY = {
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ConnectTimeout",
    "requests.exceptions.ReadTimeout",
    "requests.exceptions.RetryError",
    "botocore.exceptions.EndpointConnectionError",
    "botocore.exceptions.ConnectTimeoutError",
    "botocore.exceptions.ReadTimeoutError",
    "httpx.ConnectError",
    "httpx.ConnectTimeout",
    "httpx.ReadTimeout",
    "httpx.RemoteProtocolError",
}

"""Recognises transient errors: a server or store does not answer, whichever library reports it."""

from __future__ import annotations

import re

from tasks.errors import StoreFullError, UnavailableError

# A full store, as the stack's MLflow reports it (images/mlflow/s3_store.py), and as the store itself does, which gets
# large files directly: Ceph, MinIO (bucket quota, disk), others by HTTP status.
_FULL = re.compile(
    r"(?<=store is full \()\w+"
    r"|\b(?:QuotaExceeded|XMinioAdminBucketQuotaExceeded|XMinioStorageFull)\b"
    r"|\b507 Server Error\b(?!.*store is full)"
)
# MLflow answers in JSON; this is how its client reports an answer of another program: of a proxy, at a wrong address.
_NOT_MLFLOW = re.compile(r"^API request to endpoint \S+ failed with error code (?:400|404) != \d+\. Response body:")
# MLflow tells of a failed download in a text of its own, without the error: the connection broke in the middle of a
# file, or, where files come from S3 directly, no answer or one of a server that is not well.
_DOWNLOAD = "The following failures occurred while downloading"
_BROKEN = re.compile(
    r"IncompleteRead|Response ended prematurely|Connection broken|Connection aborted|Connection was closed before"
    r"|Could not connect to the endpoint URL|(?:Read|Connect) timeout on endpoint URL|Read timed out"
    r"|An error occurred \((?:50[0-4]|InternalError|ServiceUnavailable|SlowDown)\)|\b50[234] Server Error"
)
_STORE_ERRORS = {"HTTPError", "ClientError", "S3UploadFailedError", "MlflowException", "RestException"}


def as_unavailable(error: BaseException) -> UnavailableError | None:
    """Return the `UnavailableError` that a transient error stands for; None for any other error."""
    seen: BaseException | None = error
    while seen is not None:
        name = f"{type(seen).__module__}.{type(seen).__qualname__}"
        status = getattr(seen, "get_http_status_code", None)
        if type(seen).__name__ in _STORE_ERRORS and (full := _FULL.search(str(seen))):
            return StoreFullError(
                f"the artifact store is full ({full[0]}); raise its quota or free space; a retry then resumes from here"
            )
        if isinstance(seen, ConnectionError | TimeoutError) or name in _NO_ANSWER:
            return UnavailableError(f"a server does not answer: {seen}"[:500])
        if _DOWNLOAD in str(seen) and (broken := _BROKEN.search(str(seen))) is not None:
            return UnavailableError(f"a download broke off ({broken[0]}): {seen}"[:500])
        if (another := answered_by_another(seen)) is not None:
            return another
        if status is not None and (status() in {429, 502, 503, 504} or "Max retries exceeded" in str(seen)):
            return UnavailableError(f"MLflow or its store is not available: {seen}"[:500])
        seen = seen.__cause__ or seen.__context__
    return None


def answered_by_another(error: BaseException) -> UnavailableError | None:
    """Return the error to raise when another program answered "not found" in MLflow's place, such as a proxy."""
    if type(error).__name__ == "MlflowException" and _NOT_MLFLOW.match(str(error)):
        return UnavailableError(f"what answers at MLflow's address is not MLflow: {error}"[:500])
    return None


_NO_ANSWER = {
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ConnectTimeout",
    "requests.exceptions.ReadTimeout",
    "requests.exceptions.RetryError",
    "botocore.exceptions.ConnectionClosedError",
    "botocore.exceptions.EndpointConnectionError",
    "botocore.exceptions.ConnectTimeoutError",
    "botocore.exceptions.ReadTimeoutError",
    "httpx.ConnectError",
    "httpx.ConnectTimeout",
    "httpx.ReadTimeout",
    "httpx.RemoteProtocolError",
}

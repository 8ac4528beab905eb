"""Ask an S3 store for a bucket, signed (AWS Signature Version 4): for programs that run before boto3 is installed."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from datetime import UTC, datetime
from urllib.parse import urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()
PATIENCE = 5.0


def head_bucket(url: str, bucket: str, keys: tuple[str, str], region: str) -> tuple[int, str | None]:
    """Ask whether a bucket is there and the keys are taken; returns HTTP status and Date header.

    Args:
        url: of the store, http or https.
        bucket: letters, digits, dots and hyphens, as S3 has it.
        keys: access key and secret key.
        region: of the bucket.

    Raises:
        ValueError: the URL is none.
        OSError, http.client.HTTPException: nothing answers, or not in HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is no address")
    path = f"{parts.path.rstrip('/')}/{bucket}"
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        connection.request("HEAD", path, headers=signed(parts.netloc, path, keys, region, datetime.now(UTC)))
        answer = connection.getresponse()
        return answer.status, answer.getheader("Date")
    finally:
        connection.close()


def signed(host: str, path: str, keys: tuple[str, str], region: str, now: datetime) -> dict[str, str]:
    """Headers of a HEAD request without body and query; stores refuse a `now` (UTC) that is 15 minutes off."""
    day, time = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    access, secret = keys
    given = {"host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": time}
    names = ";".join(given)
    request = "\n".join(["HEAD", path, "", *(f"{name}:{value}" for name, value in given.items()), "", names, EMPTY])
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {"Host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": time, "Authorization": authorization}

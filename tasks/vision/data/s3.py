"""Data sets in an S3 store: `s3://bucket/data.tar.gz` (an archive) or `s3://bucket/data/` (a folder).

They are downloaded whole before anything is read. The fingerprint is then made of the bytes themselves, as for local
files: an object's ETag depends on the part size of its upload and on encryption, so that the same images would look
new after every copy.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.exceptions import RetriesExceededError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # botocore's own
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from tasks.errors import DataError, SettingsError, UnavailableError
from tasks.vision.data.limits import MIB, Limits
from tasks.vision.data.names import safe_name

REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
MISSING = {"404", "NoSuchBucket", "NoSuchKey"}
REPORT_SECONDS = 10.0

log = logging.getLogger(__name__)


def download(url: str, folder: Path, endpoint_url: str | None = None, limits: Limits | None = None) -> Path:
    """Download an archive, or all objects under a prefix that ends in `/`, into `folder`.

    Args:
        url: `s3://bucket/key` or `s3://bucket/prefix/`.
        folder: an empty folder to download into.
        endpoint_url: address of the store; by default boto3's own AWS_ENDPOINT_URL, or Amazon.
        limits: the largest number of objects and bytes.

    Returns:
        The file, or the folder with the objects by their key without the prefix.

    Raises:
        DataError: no such bucket or object, nothing under the prefix, an unsafe key, or more than `limits`.
        SettingsError: credentials are missing or refused.
        UnavailableError: the store does not answer.
    """
    limits = limits or Limits()
    bucket, key = location(url)
    with failures_named(url):
        client = connected(endpoint_url)
        if not key or key.endswith("/"):
            return _download_prefix(client, url, bucket, key, folder, limits)
        target = folder / f"archive{PurePosixPath(key).suffix}"
        client.download_file(bucket, key, str(target))
    log.info("downloaded %s: %.1f MiB", url, target.stat().st_size / MIB)
    return target


def read(url: str, limit: int, endpoint_url: str | None = None) -> bytes:
    """Read one small object.

    Raises:
        DataError: no such object, or one of over `limit` bytes.
        SettingsError: credentials are missing or refused.
        UnavailableError: the store does not answer.
    """
    bucket, key = location(url)
    if not key or key.endswith("/"):
        raise DataError(f"source {url!r} is a folder; give a file, s3://BUCKET/KEY")
    data = io.BytesIO()
    with failures_named(url):
        client = connected(endpoint_url)
        size = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
        if size > limit:
            raise DataError(f"source {url!r} has {size} bytes, over {limit}; give a smaller file")
        client.download_fileobj(bucket, key, data)
    return data.getvalue()


def location(url: str) -> tuple[str, str]:
    """Return bucket and key of an address.

    Raises:
        DataError: it has no bucket.
    """
    # Not by urlsplit: a key may hold # and ?, which mean nothing here.
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"source {url!r} has no bucket; write s3://BUCKET/KEY or s3://BUCKET/PREFIX/")
    return bucket, key.lstrip("/")


def connected(endpoint_url: str | None) -> Any:
    """Return boto3's client of a store; by default that of boto3's own AWS_ENDPOINT_URL, or Amazon."""
    config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4})
    # A session of its own: boto3's default one keeps the credentials of its first use.
    return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)


def _download_prefix(client: Any, url: str, bucket: str, prefix: str, folder: Path, limits: Limits) -> Path:
    started = reported = time.monotonic()
    count = total = 0
    empty: list[Path] = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            key = item["Key"]
            if key.endswith("/"):
                continue  # a folder, as some tools mark them
            count, total = count + 1, total + item["Size"]
            if count > limits.entries or total > limits.total_bytes:
                raise DataError(
                    f"source {url!r} holds over {limits.entries} objects or {limits.total_bytes} bytes; "
                    "give a narrower prefix"
                )
            # A key may be any text: one with `..` in it must not be written outside the folder.
            target = folder / safe_name(key.removeprefix(prefix), url)
            if not item["Size"]:
                empty.append(target)
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(target))
            except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                raise DataError(
                    f"source {url!r} has an object {key!r} and others below it or above it, as a file and a folder of "
                    "one name; rename one"
                ) from error
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                log.info("downloaded %d objects of %s, %.0f per second", count, url, count / (reported - started))
    for target in empty:
        # Some tools mark the folder `train` by an empty object `train`; beside `train/...` it is not a file.
        if not target.is_dir() and not any(parent.is_file() for parent in target.parents):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    if not count:
        raise DataError(f"source {url!r} holds no objects; correct the prefix")
    log.info("downloaded %s: %d objects, %.1f MiB", url, count, total / MIB)
    return folder


@contextmanager
def failures_named(url: str, field: str = "source", tried: str = "read") -> Iterator[None]:
    """Turn what boto3 raises into one line that says which address could not be read or written.

    Args:
        url: the address.
        field: what the request calls it.
        tried: what was to be done with it: `read` or `written`.

    Raises:
        DataError: no such bucket or object, or an address that is none.
        SettingsError: credentials are missing or refused.
        UnavailableError: the store does not answer.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SettingsError(
            f"{field} {url!r} needs credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (ConnectionError, HTTPClientError, RetriesExceededError) as error:
        raise UnavailableError(
            f"the store of {field} {url!r} does not answer ({error}); start it or correct AWS_ENDPOINT_URL"
        ) from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in MISSING:
            raise DataError(
                f"{field} {url!r} does not exist ({code}); correct bucket and key, and end a folder with /"
            ) from error
        if code in REFUSED:
            raise SettingsError(
                f"{field} {url!r} may not be {tried} by this user ({code}); "
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500:
            raise UnavailableError(
                f"the store of {field} {url!r} reports an error ({code}); try again later"
            ) from error
        raise DataError(f"{field} {url!r} cannot be {tried} ({error}); correct bucket and key") from error
    except ParamValidationError as error:
        raise DataError(f"{field} {url!r} is not an S3 address ({error}); write s3://BUCKET/KEY") from error
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is not a URL
        raise SettingsError(f"{field} {url!r} cannot be opened ({error}); check AWS_* and the endpoint") from error

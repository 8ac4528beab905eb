"""Backup files in a bucket of another S3 store; runs in MLflow's image, which has boto3.

    python backup_store_client.py put NAME BYTES <file    uploads it, and compares its size with what the store then has
    python backup_store_client.py get NAME >file
    python backup_store_client.py get-all <names >tar     several, whose names are lines of the input
    python backup_store_client.py names                   what is in the bucket, a name a line
    python backup_store_client.py delete NAME...

Reads BACKUP_BUCKET and BACKUP_S3_*, which `deploy/backup_places.py` passes on.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from typing import IO, Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

PART = 8 << 20  # bytes
PARTS = 9_000  # S3 takes 10,000 of a file


class _ReadOnly:
    """Standard input as boto3 needs it: a file object that says that it can seek, and cannot, breaks an upload."""

    def __init__(self, source: IO[bytes]) -> None:
        self.read = source.read


def put(client: Any, bucket: str, name: str, size: int, source: IO[bytes]) -> None:
    """Upload a file.

    Raises:
        ValueError: the store has another number of bytes; nothing is left there.
    """
    config = TransferConfig(multipart_chunksize=max(PART, size // PARTS + 1), max_concurrency=2)
    client.upload_fileobj(_ReadOnly(source), bucket, name, Config=config)
    stored = client.head_object(Bucket=bucket, Key=name)["ContentLength"]
    if stored != size:
        client.delete_object(Bucket=bucket, Key=name)
        raise ValueError(f"{name} has {stored} bytes there instead of {size}: the stream was cut off; run it again")


def get_all(client: Any, bucket: str, wanted: list[str], target: IO[bytes]) -> None:
    """Write files as one tar: a container for each of some hundreds would take minutes."""
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for name in wanted:
            found = client.get_object(Bucket=bucket, Key=name)
            info = tarfile.TarInfo(name)
            info.size = found["ContentLength"]
            archive.addfile(info, found["Body"])


def names(client: Any, bucket: str) -> list[str]:
    """Return the name of every file in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def main(arguments: list[str]) -> None:
    """Do what the arguments say; an error of the store is one line."""
    endpoint, bucket = os.environ["BACKUP_S3_ENDPOINT_URL"], os.environ["BACKUP_BUCKET"]
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=os.environ["BACKUP_S3_REGION"],
        aws_access_key_id=os.environ["BACKUP_S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["BACKUP_S3_SECRET_KEY"],
    )
    try:
        match arguments:
            case ["put", name, size]:
                put(client, bucket, name, int(size), sys.stdin.buffer)
            case ["get", name]:
                shutil.copyfileobj(client.get_object(Bucket=bucket, Key=name)["Body"], sys.stdout.buffer)
            case ["get-all"]:
                get_all(client, bucket, sys.stdin.read().split(), sys.stdout.buffer)
            case ["names"]:
                print("\n".join(names(client, bucket)))
            case ["delete", *old]:
                for name in old:
                    client.delete_object(Bucket=bucket, Key=name)
    except (BotoCoreError, Boto3Error, ClientError, ValueError) as error:
        sys.exit(f"bucket {bucket!r} at {endpoint}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])

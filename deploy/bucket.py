"""The artifact bucket as a tar stream; runs in MLflow's image, which has boto3. Any S3 server will do.

    python bucket.py save >objects.tar       every object, its key as the member's name
    python bucket.py load <objects.tar       uploads them; objects that exist already stay
    python bucket.py count                   how many objects there are

`save` and `load` print their count on standard error at the end: a tar that was cut between two members looks complete.
Reads S3_BUCKET, MLFLOW_S3_ENDPOINT_URL and AWS_*, as set for the service `bucket` in docker-compose.yml.
"""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

import boto3
from botocore.exceptions import BotoCoreError, ClientError

GONE = {"NoSuchKey", "404"}


class _ReadOnly:
    """A member of a tar stream as boto3 needs it: tarfile's own object does not say that it cannot seek."""

    def __init__(self, member: IO[bytes]) -> None:
        self.read = member.read


def keys(client: Any, bucket: str) -> Iterator[str]:
    """Yield every key in the bucket, in the store's order."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            yield found["Key"]


def save(client: Any, bucket: str, output: BinaryIO) -> int:
    """Write every object to `output` as a tar stream and count them; no whole object is held in memory."""
    count = 0
    with tarfile.open(fileobj=output, mode="w|") as archive:
        for key in keys(client, bucket):
            try:
                answer = client.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if error.response["Error"]["Code"] in GONE:  # deleted since it was listed, such as an old checkpoint
                    continue
                raise
            info = tarfile.TarInfo(key)
            info.size = answer["ContentLength"]
            info.mtime = int(answer["LastModified"].timestamp())
            archive.addfile(info, answer["Body"])
            count += 1
    return count


def load(client: Any, bucket: str, stream: BinaryIO) -> int:
    """Upload every member of the tar stream and count them."""
    count = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            content = archive.extractfile(info)
            if content is not None:
                client.upload_fileobj(_ReadOnly(content), bucket, info.name)
                count += 1
    return count


def main() -> None:
    """Do what the argument says; an error of the store is one line."""
    endpoint, bucket = os.environ["MLFLOW_S3_ENDPOINT_URL"], os.environ["S3_BUCKET"]
    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        if sys.argv[1] == "save":
            print(save(client, bucket, sys.stdout.buffer), "objects", file=sys.stderr)
        elif sys.argv[1] == "load":
            print(load(client, bucket, sys.stdin.buffer), "objects", file=sys.stderr)
        else:
            print(sum(1 for _ in keys(client, bucket)))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"bucket {bucket!r} at {endpoint}: {error}")


if __name__ == "__main__":
    main()

"""Creates the artifact bucket if it is missing; uses only the S3 API, so that any S3 server works.

If the bucket exists, rights to that bucket are enough.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

PATIENCE = 30.0  # seconds; the stack's own store is healthy before this starts
REFUSED = {400, 401, 403}


class StoreError(Exception):
    """The store cannot be used with the values in `.env`; one line with the variable and the fix."""


def ensure_bucket(client: Any, bucket: str, endpoint: str) -> None:
    """Create the bucket unless it exists.

    Raises:
        StoreError: the store refuses access, or is not an S3 server.
        BotoCoreError, ClientError: it does not answer, or fails (5xx); a retry may help.
    """
    status = 0
    for attempt in (client.head_bucket, client.create_bucket):
        try:
            attempt(Bucket=bucket)
            return
        except ClientError as error:
            code, status = str(error.response["Error"]["Code"]), error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500:
                raise
            if status in REFUSED or code in {"BucketAlreadyExists", "AccessDenied"}:
                raise StoreError(
                    f"{endpoint} refuses S3_ACCESS_KEY and S3_SECRET_KEY for bucket {bucket!r} ({code}); the stack's "
                    "own store keeps the keys it was first started with: put those in .env, or set another S3_BUCKET"
                ) from error
            if status == 301:
                raise StoreError(
                    f"bucket {bucket!r} at {endpoint} is in another region; set S3_REGION to that region"
                ) from error
        except ResponseParserError:
            break
    raise StoreError(
        f"{endpoint} answers, but not as an S3 server (HTTP {status or 'without XML'}); correct S3_ENDPOINT_URL"
    )


def main() -> None:
    """Wait for the store, then create the bucket; prints one line either way."""
    bucket, endpoint = os.environ["S3_BUCKET"], os.environ["MLFLOW_S3_ENDPOINT_URL"]
    config = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            ensure_bucket(boto3.client("s3", endpoint_url=endpoint, config=config), bucket, endpoint)
            print(f"bucket {bucket!r} at {endpoint} exists", flush=True)
            return
        except StoreError as error:
            sys.exit(str(error))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: not a URL
            if isinstance(error, ValueError) or time.monotonic() > deadline:
                sys.exit(f"no S3 server answers at {endpoint} ({error}); start it, or correct S3_ENDPOINT_URL")
        time.sleep(1)


if __name__ == "__main__":
    main()

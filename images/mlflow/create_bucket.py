"""Make the artifact bucket when it is missing; S3 API only, so that any S3 server will do."""

from __future__ import annotations

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE = 120.0


def main() -> None:
    """Wait for the store, create the bucket unless it is there already."""
    bucket, endpoint = os.environ["S3_BUCKET"], os.environ["MLFLOW_S3_ENDPOINT_URL"]
    config = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1})
    client = boto3.client("s3", endpoint_url=endpoint, config=config)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket)
            print(f"bucket {bucket!r} is there", flush=True)
            return
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}:
                sys.exit(
                    f"{endpoint} refuses S3_ACCESS_KEY ({code}); the store keeps the key it was first started with: "
                    "use that one, or remove its volume"
                )
            cause = code
        except BotoCoreError as error:
            cause = type(error).__name__
        if time.monotonic() > deadline:
            sys.exit(f"no S3 server answers at {endpoint} ({cause}); start it or correct S3_ENDPOINT_URL")
        time.sleep(1)


if __name__ == "__main__":
    main()

"""Tries each key of a purpose on each place of the bucket; runs in MLflow's image, which has boto3.

Input: JSON with `purposes`, each with its prefix and keys, and the bucket's policy or null, which is written first.
Prints what is wrong in one line: a key that the store does not know, that cannot use its own place, or that can use
another one. Prints nothing if all is well. Reads S3_BUCKET, MLFLOW_S3_ENDPOINT_URL and AWS_*, the key of the root.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE = 30.0  # seconds for new users and policies to be known
NAME = ".trying-the-keys"
NAMES = ("aws_access_key_id", "aws_secret_access_key")
REFUSED = {401, 403}
CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})


def ensure_bucket(root: Any, bucket: str) -> None:
    """Create the bucket if it is missing; the job `bucket`, which says more about faults, starts later."""
    try:
        root.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        root.create_bucket(Bucket=bucket)


def opens(client: Any, bucket: str, key: str) -> dict[str, bool]:
    """Tell for each action whether the client may do it to an object that exists; afterwards it may be gone."""

    def may(action: Callable[..., Any], **arguments: Any) -> bool:
        try:
            answer = action(Bucket=bucket, **arguments)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in REFUSED:
                raise
            return False
        return not answer.get("Errors")  # a list of objects is answered 200, with each refusal in it

    return {
        "read": may(client.get_object, Key=key),
        "write": may(client.put_object, Key=key, Body=b""),
        "delete": may(client.delete_objects, Delete={"Objects": [{"Key": key}]}),
    }


def wrong(root: Any, bucket: str, purposes: Sequence[dict[str, Any]], clients: Sequence[Any]) -> str:
    """Return the first thing that a key can do and should not, or should and cannot; empty if there is none."""
    for purpose, client in zip(purposes, clients, strict=True):
        for place in purposes:
            key, own = place["prefix"] + NAME, place is purpose
            root.put_object(Bucket=bucket, Key=key, Body=b"")
            for action, may in opens(client, bucket, key).items():
                if may is not own:
                    can = "can" if may else "cannot"
                    return f"the key of {purpose['purpose']} {can} {action} in the place of {place['purpose']}"
    return ""


def main() -> None:
    """Write the policy, then try until all is well or the time is up."""
    given = json.load(sys.stdin)
    bucket, endpoint = os.environ["S3_BUCKET"], os.environ["MLFLOW_S3_ENDPOINT_URL"]
    root = boto3.client("s3", endpoint_url=endpoint, config=CONFIG)

    keys = [dict(zip(NAMES, purpose["keys"], strict=True)) for purpose in given["purposes"]]
    clients = [boto3.client("s3", endpoint_url=endpoint, config=CONFIG, **one) for one in keys]
    try:
        ensure_bucket(root, bucket)
        if given["policy"]:
            root.put_bucket_policy(Bucket=bucket, Policy=json.dumps(given["policy"]))
        deadline = time.monotonic() + (PATIENCE if given["patient"] else 0)
        while (found := wrong(root, bucket, given["purposes"], clients)) and time.monotonic() < deadline:
            time.sleep(1)
        for purpose in given["purposes"]:
            root.delete_object(Bucket=bucket, Key=purpose["prefix"] + NAME)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"bucket {bucket!r} at {endpoint}: {error}")
    print(found, end="")


if __name__ == "__main__":
    main()

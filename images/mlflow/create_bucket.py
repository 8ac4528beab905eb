"""Creates the artifact bucket if it is missing, and has old task logs expire; uses only the S3 API.

If the bucket exists, rights to that bucket are enough. A store that knows no lifecycle rules, or refuses them, keeps
the logs: one line says so, and everything works.
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
LOGS = "airflow-logs/"  # where Airflow uploads task logs; nothing else is there
RULE = "vision-mlops-task-logs"  # ID of our rule; others' rules stay as they are


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


def expire_logs(client: Any, bucket: str, days: int) -> str:
    """Have the store delete task logs after `days`, 0: never; writes only what differs.

    Returns:
        What is so now, in one line.
    """
    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            return _without_rules(error)
        rules = []
    others = [rule for rule in rules if rule.get("ID") != RULE]
    ours = {"ID": RULE, "Status": "Enabled", "Filter": {"Prefix": LOGS}, "Expiration": {"Days": days}}
    wanted = [*others, *([ours] if days else [])]
    try:
        if not any(_same(rule, ours) for rule in rules) if days else len(others) != len(rules):
            if wanted:
                client.put_bucket_lifecycle_configuration(
                    Bucket=bucket, LifecycleConfiguration={"Rules": wanted}, ChecksumAlgorithm="CRC32"
                )
            else:
                client.delete_bucket_lifecycle(Bucket=bucket)
    except ClientError as error:
        return _without_rules(error)
    return f"task logs expire after {days} days" if days else "task logs never expire"


def _same(rule: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Compare what matters; a store adds fields of its own, or writes the prefix in the older place."""
    prefix = rule.get("Filter", {}).get("Prefix", rule.get("Prefix"))
    expiration = rule.get("Expiration", {}).get("Days")
    found = (rule.get("ID"), rule.get("Status"), prefix, expiration)
    return found == (RULE, "Enabled", LOGS, ours["Expiration"]["Days"])


def _without_rules(error: ClientError) -> str:
    code = error.response["Error"]["Code"]
    return f"task logs never expire: the store refuses lifecycle rules ({code}); set one for {LOGS!r} by its own tools"


def keep_days() -> int:
    """Read TASK_LOGS_KEEP_DAYS; unset: 90.

    Raises:
        StoreError: it is not a number of days.
    """
    text = os.environ.get("TASK_LOGS_KEEP_DAYS") or "90"
    if not text.isascii() or not text.isdigit():
        raise StoreError(f"TASK_LOGS_KEEP_DAYS={text!r} is not a number of days; set one, or 0 for ever")
    return int(text)


def main() -> None:
    """Wait for the store, then create the bucket; prints one line either way, and one about the logs."""
    bucket, endpoint = os.environ["S3_BUCKET"], os.environ["MLFLOW_S3_ENDPOINT_URL"]
    config = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            days = keep_days()
            client = boto3.client("s3", endpoint_url=endpoint, config=config)
            ensure_bucket(client, bucket, endpoint)
            print(f"bucket {bucket!r} at {endpoint} exists", flush=True)
            print(expire_logs(client, bucket, days), flush=True)
            return
        except StoreError as error:
            sys.exit(str(error))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: not a URL
            if isinstance(error, ValueError) or time.monotonic() > deadline:
                sys.exit(f"no S3 server answers at {endpoint} ({error}); start it, or correct S3_ENDPOINT_URL")
        time.sleep(1)


if __name__ == "__main__":
    main()

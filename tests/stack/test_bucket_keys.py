"""What each key of the S3 store may do in the bucket, tried on the store; docs/threat-model.md shows the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy.store_policies import PURPOSES, Purpose

from . import role_tables
from .conftest import Stack

pytestmark = pytest.mark.docker
BUCKET = "mlflow"
ARTIFACT, LOG, SEARCH = "1/0/artifacts/tried.txt", "airflow-logs/tried.log", "tune/tried/state.json"
REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "401"}


def client(stack: Stack, key: tuple[str, str] | None) -> Any:
    given = {"config": Config(signature_version=UNSIGNED)}
    if key is not None:
        given = dict(zip(("aws_access_key_id", "aws_secret_access_key"), key, strict=True))
    return boto3.client("s3", endpoint_url=stack.s3_url, region_name="us-east-1", **given)


def key_of(purpose: Purpose, stack: Stack) -> tuple[str, str]:
    return stack.variables[purpose.access_key], stack.variables[purpose.secret_key]


# Who asks, and with which settings of `.env`.
KEYS: dict[str, Callable[[Stack], tuple[str, str] | None]] = {
    "nobody": lambda stack: None,
    "`S3_ACCESS_KEY` with a wrong secret": lambda stack: (stack.variables["S3_ACCESS_KEY"], "0" * 40),
    "`S3_ACCESS_KEY`": lambda stack: (stack.variables["S3_ACCESS_KEY"], stack.variables["S3_SECRET_KEY"]),
    **{f"`{one.access_key}`": partial(key_of, one) for one in PURPOSES},
}
ACTIONS: dict[str, Callable[[Any], object]] = {
    "list the bucket": lambda s3: s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1),
    "read an artifact": lambda s3: s3.get_object(Bucket=BUCKET, Key=ARTIFACT),
    "change an artifact": lambda s3: s3.put_object(Bucket=BUCKET, Key=ARTIFACT, Body=b"other"),
    "delete an artifact": lambda s3: s3.delete_object(Bucket=BUCKET, Key=ARTIFACT),
    "read a task's log": lambda s3: s3.get_object(Bucket=BUCKET, Key=LOG),
    "write a task's log": lambda s3: s3.put_object(Bucket=BUCKET, Key=LOG, Body=b"other"),
    "delete a task's log": lambda s3: s3.delete_object(Bucket=BUCKET, Key=LOG),
    "read a search's state": lambda s3: s3.get_object(Bucket=BUCKET, Key=SEARCH),
    "write a search's state": lambda s3: s3.put_object(Bucket=BUCKET, Key=SEARCH, Body=b"other"),
    "create a bucket": lambda s3: s3.create_bucket(Bucket="tried-by-a-test"),
}


def rows(stack: Stack) -> Iterator[tuple[str, dict[str, bool]]]:
    """Try every action with every key, on objects that are there."""
    root = client(stack, KEYS["`S3_ACCESS_KEY`"](stack))
    for name, key in KEYS.items():
        s3, done = client(stack, key(stack)), {}
        for text, action in ACTIONS.items():
            for place in (ARTIFACT, LOG, SEARCH):
                root.put_object(Bucket=BUCKET, Key=place, Body=b"one")
            try:
                action(s3)
            except ClientError as error:
                if error.response["Error"]["Code"] not in REFUSED:
                    raise
                done[text] = False
            else:
                done[text] = True
        yield name, done


def test_every_key_can_do_what_the_document_says_and_no_more(stack: Stack) -> None:
    role_tables.check("Bucket", [*ACTIONS], rows(stack))

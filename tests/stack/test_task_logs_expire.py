"""The rule by which a real S3 store deletes old task logs: once, only for them, beside the rules of others."""

from __future__ import annotations

import importlib.util
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from .conftest import ROOT, Stack

pytestmark = pytest.mark.docker
THEIRS = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "theirs/"}, "Expiration": {"Days": 3}}


@pytest.fixture
def s3(stack: Stack) -> Any:
    keys = [stack.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    url = f"http://127.0.0.1:{stack.variables['S3_PORT']}"
    client = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=url)
    client.create_bucket(Bucket="expiry")
    yield client
    client.delete_bucket(Bucket="expiry")


def rules(s3: Any, bucket: str = "expiry") -> dict[str, tuple[str, int]]:
    """Prefix and days of each rule, by its ID."""
    try:
        found = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
            return {}
        raise
    return {r["ID"]: (r.get("Filter", {}).get("Prefix", r.get("Prefix")), r["Expiration"]["Days"]) for r in found}


def test_the_stacks_own_bucket_has_the_rule(stack: Stack, s3: Any) -> None:
    bucket = stack.variables.get("S3_BUCKET") or "mlflow"
    assert rules(s3, bucket) == {"vision-mlops-task-logs": ("airflow-logs/", 90)}


def test_only_logs_expire_and_rules_of_others_stay(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("create_bucket", ROOT / "images/mlflow/create_bucket.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    ours = "vision-mlops-task-logs"
    assert program.expire_logs(s3, "expiry", 90) == "task logs expire after 90 days"
    assert rules(s3) == {ours: ("airflow-logs/", 90)}
    with monkeypatch.context() as patch:  # the same again writes nothing
        patch.setattr(s3, "put_bucket_lifecycle_configuration", None)
        assert program.expire_logs(s3, "expiry", 90) == "task logs expire after 90 days"
    assert program.expire_logs(s3, "expiry", 30) == "task logs expire after 30 days"
    assert rules(s3) == {ours: ("airflow-logs/", 30)}
    assert program.expire_logs(s3, "expiry", 0) == "task logs never expire"
    assert rules(s3) == {}
    s3.put_bucket_lifecycle_configuration(Bucket="expiry", LifecycleConfiguration={"Rules": [THEIRS]})
    program.expire_logs(s3, "expiry", 14)
    assert rules(s3) == {"theirs": ("theirs/", 3), ours: ("airflow-logs/", 14)}
    program.expire_logs(s3, "expiry", 0)
    assert rules(s3) == {"theirs": ("theirs/", 3)}

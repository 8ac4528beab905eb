"""What each purpose may do in the stack's bucket, as policies of S3: one table for every store. Standard library only.

    python3 -m deploy store-policies      prints them, for a store outside the stack

Each key may list the names of all objects in the bucket: S3 answers 403 instead of 404 for a missing object to whoever
may not list, and MLflow, Airflow and Ray all ask for objects that are not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = "2012-10-17"  # of the language of policies
LOGS, TUNE = "airflow-logs/", "tune/"
OBJECTS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
BUCKET = ("s3:ListBucket", "s3:GetBucketLocation")

Statement = dict[str, Any]


@dataclass(frozen=True)
class Purpose:
    """Who uses the bucket for what."""

    name: str
    prefix: str  # of the objects that it may read, write and delete; empty: all but those of the others
    access_key: str  # the variables of its key
    secret_key: str


PURPOSES = (
    Purpose("artifacts", "", "S3_ARTIFACTS_ACCESS_KEY", "S3_ARTIFACTS_SECRET_KEY"),
    Purpose("logs", LOGS, "S3_LOGS_ACCESS_KEY", "S3_LOGS_SECRET_KEY"),
    Purpose("tune", TUNE, "S3_TUNE_ACCESS_KEY", "S3_TUNE_SECRET_KEY"),
)
VARIABLES = tuple(name for purpose in PURPOSES for name in (purpose.access_key, purpose.secret_key))


def user_name(purpose: Purpose) -> str:
    """Return the name of the purpose's user, policy or role in a store."""
    return f"vision-mlops-{purpose.name}"


def statements(purpose: Purpose, bucket: str) -> list[Statement]:
    """Return what the purpose may do; nothing else is allowed.

    Args:
        purpose: one of PURPOSES.
        bucket: name of the bucket.
    """
    arn = f"arn:aws:s3:::{bucket}"
    # The bucket itself is named for Ceph, which asks for DeleteObject there before it looks at a list of objects to
    # delete; each object of the list needs the right, too.
    allowed = [
        {"Effect": "Allow", "Action": list(OBJECTS), "Resource": [arn, f"{arn}/{purpose.prefix}*"]},
        {"Effect": "Allow", "Action": list(BUCKET), "Resource": [arn]},
    ]
    if purpose.prefix:
        return allowed
    others = [f"{arn}/{other.prefix}*" for other in PURPOSES if other.prefix]
    return [*allowed, {"Effect": "Deny", "Action": ["s3:*"], "Resource": others}]


def user_policy(purpose: Purpose, bucket: str) -> dict[str, Any]:
    """Return the policy to attach to the purpose's user (MinIO, SeaweedFS, RustFS) or role (AWS)."""
    return {"Version": VERSION, "Statement": statements(purpose, bucket)}


def bucket_policy(bucket: str, owner: str) -> dict[str, Any]:
    """Return the policy of the bucket in a store that has users but no policies of users (Ceph).

    Args:
        bucket: its name.
        owner: the user who owns it. In Ceph an object belongs to who wrote it, so without a statement of its own the
            owner of the bucket could not read the objects of the others, and no backup would be complete.
    """
    arn = f"arn:aws:s3:::{bucket}"
    own = {"Effect": "Allow", "Action": ["s3:*"], "Resource": [arn, f"{arn}/*"], "Principal": _principal(owner)}
    theirs = [
        {**one, "Principal": _principal(user_name(purpose))}
        for purpose in PURPOSES
        for one in statements(purpose, bucket)
    ]
    return {"Version": VERSION, "Statement": [own, *theirs]}


def _principal(user: str) -> Mapping[str, list[str]]:
    return {"AWS": [f"arn:aws:iam:::user/{user}"]}

"""The roles on AWS of an overlay's service accounts: who may take each, and what it may do. Standard library only.

    python3 -m deploy kubernetes-roles --overlay eks --oidc-provider ARN

Each account takes its own role, and none may take another's: its prefix of the bucket is all that it can use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.errors import USAGE
from deploy.kubernetes.cluster import ClusterError, stages_of
from deploy.store_policies import PURPOSES, VERSION, user_policy

ISSUER = ":oidc-provider/"  # in the ARN of a cluster's provider, before its address


@dataclass(frozen=True)
class Role:
    """A role, the accounts that may take it, and what for."""

    setting: str  # in settings.env, where its ARN is
    accounts: tuple[str, ...]
    purpose: str
    of_stages: bool = False  # the accounts are in the stages' namespace


AIRFLOW = Role(
    "AIRFLOW_ROLE_ARN", ("airflow-api-server", "airflow-scheduler", "airflow-triggerer", "airflow-worker"), "logs"
)
ROLES = (
    Role("MLFLOW_ROLE_ARN", ("mlflow",), "artifacts"),
    AIRFLOW,
    Role("STAGE_ROLE_ARN", ("stage",), "tune", of_stages=True),
    Role("RAY_ROLE_ARN", ("ray-worker",), "tune"),
)


def roles(settings: Mapping[str, str], namespace: str, provider: str) -> dict[str, dict[str, Any]]:
    """Return each role's ARN with its `trust` (AssumeRolePolicyDocument) and `permissions`.

    Args:
        settings: of the overlay.
        namespace: of the platform.
        provider: ARN of the cluster's OIDC provider.

    Raises:
        ClusterError: the ARN is not of an OIDC provider, or a role is not set in the overlay.
    """
    _, issuer, address = provider.partition(ISSUER)
    if not issuer or not address:
        raise ClusterError(f"{provider!r} is no ARN of an OIDC provider; arn:aws:iam::ACCOUNT{ISSUER}ADDRESS is", USAGE)
    purposes = {purpose.name: purpose for purpose in PURPOSES}
    found = {}
    for role in ROLES:
        if not settings.get(role.setting):
            raise ClusterError(
                f"{role.setting} is not set in settings.env; give the ARN that the role is to have", USAGE
            )
        where = stages_of(namespace) if role.of_stages else namespace
        accounts = [f"system:serviceaccount:{where}:{account}" for account in role.accounts]
        trusted = {
            "Effect": "Allow",
            "Principal": {"Federated": provider},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{address}:sub": accounts, f"{address}:aud": "sts.amazonaws.com"}},
        }
        found[settings[role.setting]] = {
            "trust": {"Version": VERSION, "Statement": [trusted]},
            "permissions": user_policy(purposes[role.purpose], settings["S3_BUCKET"]),
        }
    return found

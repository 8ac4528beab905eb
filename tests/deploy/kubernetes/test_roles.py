"""The roles on AWS: each account has its own, and only it may take it."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from deploy.__main__ import main
from deploy.kubernetes.airflow import WITH_ROLE
from deploy.kubernetes.cluster import ClusterError
from deploy.kubernetes.render import render
from deploy.kubernetes.roles import AIRFLOW, ROLES, roles
from deploy.kubernetes.secret_manifests import settings_of

ADDRESS = "oidc.eks.eu-central-1.amazonaws.com/id/0123456789ABCDEF"
PROVIDER = f"arn:aws:iam::111122223333:oidc-provider/{ADDRESS}"
PREFIXES = {"artifacts": "", "logs": "airflow-logs/", "tune": "tune/"}


def test_each_role_is_for_its_accounts_only_and_limited_to_its_prefix() -> None:
    settings = settings_of("eks")
    found = roles(settings, "team", PROVIDER)
    assert len(found) == len(ROLES)
    for role in ROLES:
        documents = found[settings[role.setting]]
        [trusted] = documents["trust"]["Statement"]
        assert trusted["Principal"] == {"Federated": PROVIDER}
        where = "team-stages" if role.accounts == ("stage",) else "team"
        accounts = [f"system:serviceaccount:{where}:{account}" for account in role.accounts]
        assert trusted["Condition"] == {
            "StringEquals": {f"{ADDRESS}:sub": accounts, f"{ADDRESS}:aud": "sts.amazonaws.com"}
        }
        bucket = f"arn:aws:s3:::{settings['S3_BUCKET']}"
        [objects, _, *denied] = documents["permissions"]["Statement"]
        assert objects["Resource"] == [bucket, f"{bucket}/{PREFIXES[role.purpose]}*"]
        assert bool(denied) is (role.purpose == "artifacts")
    assert "*" not in json.dumps([documents["trust"] for documents in found.values()])


def test_no_account_has_two_roles() -> None:
    accounts = [account for role in ROLES for account in role.accounts]
    assert len(set(accounts)) == len(accounts)
    parts = {"apiServer": "api-server", "scheduler": "scheduler", "triggerer": "triggerer", "workers": "worker"}
    assert {f"airflow-{parts[part]}" for part in WITH_ROLE} == set(AIRFLOW.accounts)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_the_overlay_gives_each_account_its_own_role() -> None:
    settings = settings_of("eks")
    found = {
        one["metadata"]["name"]: one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        for one in yaml.safe_load_all(render("eks", {}))
        if one["kind"] == "ServiceAccount" and "annotations" in one["metadata"]
    }
    wanted = {account: settings[role.setting] for role in ROLES if role is not AIRFLOW for account in role.accounts}
    assert found == wanted
    assert len(set(found.values())) == len(found)


def test_what_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match="'arn:aws:iam::1:role/x' is no ARN of an OIDC provider"):
        roles(settings_of("eks"), "team", "arn:aws:iam::1:role/x")
    with pytest.raises(ClusterError, match=r"RAY_ROLE_ARN is not set in settings\.env"):
        roles(settings_of("eks") | {"RAY_ROLE_ARN": ""}, "team", PROVIDER)
    assert main(["kubernetes-roles", "--overlay", "eks", "--oidc-provider", PROVIDER]) == 0
    assert json.loads(capsys.readouterr().out) == roles(settings_of("eks"), "vision-mlops", PROVIDER)

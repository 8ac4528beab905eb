"""The Secrets of an overlay: all that its pods ask for, no more than the overlay needs, and nowhere in clear."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.__main__ import main
from deploy.env_file import parse
from deploy.kubernetes import secret_manifests
from deploy.kubernetes.cluster import ClusterError
from deploy.kubernetes.secret_manifests import manifest, secrets_of, settings_of
from deploy.setup_env import complete

from .conftest import OVERLAYS, ROOT, Manifest, manifests

VALUES = yaml.safe_load((ROOT / "deploy/kubernetes/airflow-values.yaml").read_text())


@pytest.fixture
def env() -> dict[str, str]:
    """A fresh `.env`, and the one key that publishing the service wants."""
    return parse(complete("", (ROOT / ".env.example").read_text())[0]) | {"SERVING_API_KEY": "0123456789abcdef"}


def references(node: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Every `secretKeyRef` or the like below a node."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == kind and isinstance(value, dict):
                yield value
            yield from references(value, kind)
    elif isinstance(node, list):
        for value in node:
            yield from references(value, kind)


def unsatisfied(found: list[Manifest], secrets: dict[str, dict[str, str]]) -> list[str]:
    """Keys of Secrets that pods ask for and nobody writes."""
    asked = [r for r in references(found, "secretKeyRef") if not r.get("optional")]
    assert asked
    return [f"{r['name']}/{r['key']}" for r in asked if r["key"] not in secrets.get(r["name"], {})]


def test_every_key_that_a_pod_asks_for_is_written(overlay: str, objects: list[Manifest], env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of(overlay))
    del secrets["stages"]  # in another namespace, where there are only the pods that Airflow's tasks create
    assert unsatisfied(objects, secrets) == []
    assert list(references(objects, "secretRef")) == []


@pytest.mark.parametrize(
    "reference", [{"name": "mlflow", "key": "PASSWORD"}, {"name": "mlflow-too", "key": "MLFLOW_TRACKING_PASSWORD"}]
)
def test_a_key_that_nobody_writes_is_found(reference: dict[str, str], env: dict[str, str]) -> None:
    found = [*manifests("local"), {"env": [{"name": "X", "valueFrom": {"secretKeyRef": reference}}]}]
    assert unsatisfied(found, secrets_of(env, settings_of("local"))) == [f"{reference['name']}/{reference['key']}"]


def test_an_optional_key_is_one_that_may_be_written(overlay: str, objects: list[Manifest], env: dict[str, str]) -> None:
    with_keys = settings_of(overlay) | {"S3_AUTH": "keys"}
    secrets = secrets_of(env, with_keys)
    for reference in references(objects, "secretKeyRef"):
        assert reference["key"] in secrets[reference["name"]]


def test_every_setting_that_a_pod_asks_for_is_there(objects: list[Manifest]) -> None:
    [settings] = [m["data"] for m in objects if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "settings"]
    for reference in references(objects, "configMapKeyRef"):
        assert reference["name"] == "settings"
        assert reference["key"] in settings


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_airflows_chart_finds_its_secrets(overlay: str, env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of(overlay))
    # https://airflow.apache.org/docs/helm-chart/1.22.0/parameters-ref.html names the keys.
    assert "connection" in secrets[VALUES["data"]["metadataSecretName"]]
    assert "fernet-key" in secrets[VALUES["fernetKeySecretName"]]
    assert "jwt-secret" in secrets[VALUES["jwtSecretName"]]
    assert "api-secret-key" in secrets[VALUES["apiSecretKeySecretName"]]
    for source in yaml.safe_load(VALUES["extraEnvFrom"]):
        if "secretRef" in source:
            assert source["secretRef"]["name"] in secrets
    assert unsatisfied([VALUES], secrets) == []


def test_a_stage_gets_nothing_that_airflow_has_not_so_that_the_operator_knows_of_it(env: dict[str, str]) -> None:
    secrets = secrets_of(env | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, settings_of("local"))
    derived = {name for name, _ in secret_manifests.OF_SEARCHES}  # by tasks/settings.py, from the store's keys
    assert set(secrets["stages"]) - derived <= set(secrets["airflow-environment"])


def test_with_roles_no_pod_has_a_key_of_the_store(env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of("eks"))
    text = json.dumps(secrets)
    assert "s3" not in secrets
    assert "postgres" not in secrets
    assert env["S3_SECRET_KEY"] not in text
    assert env["POSTGRES_PASSWORD"] not in text
    connection = json.loads(secrets["airflow-environment"]["AIRFLOW_CONN_TASK_LOGS"])
    assert set(connection) == {"conn_type", "extra"}


def test_each_program_has_the_passwords_of_its_own_databases_only(env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of("local"))
    holders = {name for name, content in secrets.items() if env["POSTGRES_AIRFLOW_PASSWORD"] in json.dumps(content)}
    assert holders == {"airflow", "postgres"}
    for name in ("serving", "stages", "ray", "s3"):
        assert not [key for key in secrets[name] if key.startswith("POSTGRES")]
    assert set(secrets["ray"]) == {"RAY_AUTH_TOKEN", "S3_ACCESS_KEY", "S3_SECRET_KEY"}


def test_only_mlflow_itself_has_its_administrators_password(env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of("local"))
    holders = {name for name, content in secrets.items() if env["MLFLOW_TRACKING_PASSWORD"] in content.values()}
    assert holders == {"mlflow"}
    assert env["MLFLOW_REGISTRY_PASSWORD"] not in secrets["serving"].values()


def test_searches_have_the_stacks_store_unless_another_is_named(env: dict[str, str]) -> None:
    stages = secrets_of(env, settings_of("local"))["stages"]
    assert stages["TUNE_STORAGE_SECRET_ACCESS_KEY"] == env["S3_SECRET_KEY"]
    other = env | {"TUNE_STORAGE_URI": "s3://other/tune", "TUNE_STORAGE_ACCESS_KEY_ID": "mine"}
    stages = secrets_of(other, settings_of("local"))["stages"]
    assert stages["TUNE_STORAGE_ACCESS_KEY_ID"] == "mine"
    assert "TUNE_STORAGE_SECRET_ACCESS_KEY" not in stages


@pytest.mark.parametrize(
    ("overlay", "changed", "text"),
    [
        ("local", {"MLFLOW_TRACKING_PASSWORD": ""}, "MLFLOW_TRACKING_PASSWORD is empty in .env; run make setup"),
        ("local", {"S3_SECRET_KEY": ""}, "S3_SECRET_KEY is empty"),
        ("local", {"AIRFLOW_JWT_SECRET": "change-me"}, "AIRFLOW_JWT_SECRET in .env is still a placeholder"),
        ("local", {"RAY_AUTH_TOKEN": "<token>"}, "RAY_AUTH_TOKEN in .env is still a placeholder"),
        ("local", {"POSTGRES_MLFLOW_PASSWORD": "a@b"}, "POSTGRES_MLFLOW_PASSWORD in .env has a character"),
        ("local", {"POSTGRES_AIRFLOW_PASSWORD": "a/b"}, "POSTGRES_AIRFLOW_PASSWORD in .env has a character"),
        ("eks", {"SERVING_API_KEY": ""}, "SERVING_HOST=vision.example.org publishes the service"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_the_fix(
    overlay: str, changed: dict[str, str], text: str, env: dict[str, str]
) -> None:
    with pytest.raises(ClusterError, match=re.escape(text)) as error:
        secrets_of(env | changed, settings_of(overlay))
    for value in filter(None, changed.values()):
        assert value not in str(error.value)


def test_an_unknown_way_to_the_store_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"S3_AUTH='password' .*; choose keys or role"):
        secrets_of(env, settings_of("local") | {"S3_AUTH": "password"})


def test_an_unknown_overlay_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ClusterError, match="OVERLAY='gke' is unknown; choose one of eks, eks-gpu, local, local-ray, or"
    ):
        settings_of("gke")


def test_an_overlay_without_settings_has_those_of_the_one_it_builds_on(tmp_path: Path) -> None:
    assert settings_of("eks-gpu") == settings_of("eks") != settings_of("local")
    mine = tmp_path / "mine"
    mine.mkdir()
    local = ROOT / "deploy/kubernetes/overlays/local"
    relative = os.path.relpath(local, mine.resolve())
    (mine / "kustomization.yaml").write_text(f"resources:\n  - {relative}\n")
    assert settings_of(str(mine)) == settings_of("local")
    (mine / "settings.env").write_text("S3_AUTH=role\n")
    assert settings_of(str(mine)) == {"S3_AUTH": "role"}


def test_an_overlay_that_builds_on_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources:\n  - ../../base\n")
    with pytest.raises(ClusterError, match=r"has no settings.env and builds on no overlay that has one"):
        settings_of(str(tmp_path))


def test_kubectl_gets_a_list_of_secrets_whose_values_come_back(env: dict[str, str]) -> None:
    secrets = secrets_of(env, settings_of("local"))
    items = {item["metadata"]["name"]: item for item in json.loads(manifest(secrets, "n"))["items"]}
    assert set(items) == set(secrets)
    for name, content in secrets.items():
        assert items[name]["kind"] == "Secret"
        assert items[name]["metadata"]["namespace"] == ("n-stages" if name == "stages" else "n")
        assert {key: base64.b64decode(value).decode() for key, value in items[name]["data"].items()} == content


def test_the_program_prints_them_or_one_line_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ".env"
    assert main(["kubernetes-secrets", "--env-file", str(file)]) == 78
    assert "is missing; run make setup" in capsys.readouterr().err
    file.write_text("no equals sign: hunter2\n")
    assert main(["kubernetes-secrets", "--env-file", str(file)]) == 78
    said = capsys.readouterr()
    assert "line 1 is not NAME=value" in said.err
    assert "hunter2" not in said.out + said.err
    file.write_text(complete("", (ROOT / ".env.example").read_text())[0])
    assert main(["kubernetes-secrets", "--env-file", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "List"


SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|API_KEY|ROOT_USER", re.IGNORECASE)
IN_A_URL = re.compile(r"://[^/@\s]*:(?!\$\()[^/@\s]+@")


def in_clear(node: Any) -> list[str]:
    """Variables with the name of a secret and a value, and addresses with a password, below a node."""
    found: list[str] = []
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and SECRET_NAME.search(node["name"]) and node.get("value"):
            found.append(node["name"])
        for value in node.values():
            found += in_clear(value)
    elif isinstance(node, list):
        for value in node:
            found += in_clear(value)
    elif isinstance(node, str) and IN_A_URL.search(node):
        found.append(node)
    return found


def test_no_secret_stands_in_clear(objects: list[Manifest]) -> None:
    assert [m["metadata"]["name"] for m in objects if m["kind"] == "Secret"] == []
    assert in_clear(objects) == []
    assert in_clear(VALUES) == []
    [settings] = [m["data"] for m in objects if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "settings"]
    assert [name for name in settings if SECRET_NAME.search(name)] == []


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "POSTGRES_PASSWORD", "value": "x"},
        {"name": "URI", "value": "postgresql://mlflow:hunter2@postgres:5432/mlflow"},
        {"name": "aws_secret_access_key", "value": "x"},
    ],
)
def test_a_secret_in_clear_is_found(variable: dict[str, str]) -> None:
    assert in_clear([{"env": [variable]}])

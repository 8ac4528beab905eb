"""What the container of `tune` is told of storage and cluster: the stack's unless configured; and no other stage."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.operator.job import container_environment, container_secrets
from tasks.contract.stages import STAGES
from tasks.settings import load_settings
from tests.plugins.operator.stage_requests import request_of

STACK = {"S3_ACCESS_KEY": "stack-user", "S3_SECRET_KEY": "stack-s3cret", "RAY_AUTH_TOKEN": "t0ken-of-ray"}
SECRETS = {"stack-user", "stack-s3cret", "t0ken-of-ray", "my-user", "my-s3cret"}


def told(
    monkeypatch: pytest.MonkeyPatch, stage: str, fields: Mapping[str, object] | None = None, **variables: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Environment and secrets of a stage's container, in a stack with these variables in `.env` too."""
    for name, value in (STACK | variables).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    request = request_of(stage, **(fields or {}))
    return container_environment(stage, request, settings), container_secrets(stage, request, settings)


def test_a_search_keeps_its_state_in_the_stacks_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, secrets = told(monkeypatch, "tune")
    assert environment["TUNE_STORAGE_URI"] == "s3://mlflow/tune"
    assert environment["TUNE_STORAGE_ENDPOINT_URL"] == "http://s3:9000"
    assert environment["TUNE_STORAGE_REGION"] == "us-east-1"
    assert secrets["TUNE_STORAGE_ACCESS_KEY_ID"] == "stack-user"
    assert secrets["TUNE_STORAGE_SECRET_ACCESS_KEY"] == "stack-s3cret"


def test_a_search_has_the_key_of_searches_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"S3_TUNE_ACCESS_KEY": "tune-user", "S3_TUNE_SECRET_KEY": "tune-s3cret"}
    environment, secrets = told(monkeypatch, "tune", **own)
    assert environment["TUNE_STORAGE_URI"] == "s3://mlflow/tune"
    assert secrets["TUNE_STORAGE_ACCESS_KEY_ID"] == "tune-user"
    assert secrets["TUNE_STORAGE_SECRET_ACCESS_KEY"] == "tune-s3cret"
    monkeypatch.delenv("S3_ACCESS_KEY")  # as in Airflow's containers and on Ray's nodes
    monkeypatch.delenv("S3_SECRET_KEY")
    assert load_settings().with_the_stacks_ray().tune_storage_access_key_id == "tune-user"


def test_a_store_outside_is_used_as_the_stack_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {"S3_ENDPOINT_URL": "https://s3.example.org", "S3_REGION": "eu-west-1", "S3_BUCKET": "team"}
    environment, secrets = told(monkeypatch, "tune", **outside)
    assert environment["TUNE_STORAGE_URI"] == "s3://team/tune"
    assert environment["TUNE_STORAGE_ENDPOINT_URL"] == "https://s3.example.org"
    assert environment["TUNE_STORAGE_REGION"] == "eu-west-1"
    assert secrets["TUNE_STORAGE_ACCESS_KEY_ID"] == "stack-user"


def test_the_stacks_keys_go_to_no_address_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, secrets = told(monkeypatch, "tune", TUNE_STORAGE_URI="s3://mine/searches")
    assert {name for name in environment if name.startswith("TUNE_")} == {"TUNE_STORAGE_URI"}
    assert not [name for name in secrets if name.startswith("TUNE_")]
    own = {"TUNE_STORAGE_ACCESS_KEY_ID": "my-user", "TUNE_STORAGE_SECRET_ACCESS_KEY": "my-s3cret"}
    environment, secrets = told(monkeypatch, "tune", TUNE_STORAGE_URI="s3://mine/searches", **own)
    assert environment["TUNE_STORAGE_URI"] == "s3://mine/searches"
    assert {name: secrets[name] for name in own} == own


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, None),
        ({"COMPOSE_PROFILES": "celery, monitoring"}, None),
        ({"COMPOSE_PROFILES": "celery, ray"}, "ray-head:6379"),
        ({"COMPOSE_PROFILES": "*"}, "ray-head:6379"),
        ({"COMPOSE_PROFILES": "ray", "RAY_ADDRESS": "cluster.example.org:6379"}, "cluster.example.org:6379"),
    ],
)
def test_one_word_sends_trials_to_the_cluster(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: str | None
) -> None:
    environment, secrets = told(monkeypatch, "tune", **variables)
    assert environment.get("RAY_ADDRESS") == address
    assert secrets.get("RAY_AUTH_TOKEN") == ("t0ken-of-ray" if address else None)


def test_secrets_of_a_search_are_none_of_what_airflow_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, _ = told(monkeypatch, "tune", COMPOSE_PROFILES="ray")
    assert not SECRETS & set(environment.values())


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "predict"])
def test_a_stage_on_workers_is_told_of_the_cluster_and_of_no_searches(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, secrets = told(monkeypatch, stage, {"workers": 2}, COMPOSE_PROFILES="ray")
    assert environment["RAY_ADDRESS"] == "ray-head:6379"
    assert secrets["RAY_AUTH_TOKEN"] == "t0ken-of-ray"
    assert not [name for name in environment | secrets if name.startswith(("TUNE_", "S3_"))]
    environment, secrets = told(monkeypatch, stage, {"workers": 2}, COMPOSE_PROFILES="")
    assert not [name for name in environment | secrets if name.startswith("RAY_")]


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"tune"}))
def test_no_other_stage_is_told_of_searches(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    environment, secrets = told(monkeypatch, stage, COMPOSE_PROFILES="ray", RAY_ADDRESS="cluster.example.org:6379")
    assert not [name for name in environment | secrets if name.startswith(("RAY_", "TUNE_", "S3_"))]
    assert not SECRETS & {*environment.values(), *secrets.values()}

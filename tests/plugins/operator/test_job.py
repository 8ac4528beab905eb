"""What the container of a stage is told: nothing that it does not need."""

from __future__ import annotations

import pytest

from pipeline.operator.job import container_environment, container_secrets, secret_keys
from tasks.contract.stages import STAGES
from tasks.settings import load_settings
from tests.plugins.operator.stage_requests import request_of

AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"}
SERVICE = {"SERVING_URL", "SERVING_API_KEY"}
WEIGHTS = {"dataset": "image_folder", "weights": "s3://team/weights.safetensors"}


def told(monkeypatch: pytest.MonkeyPatch, stage: str, **fields: object) -> set[str]:
    """Names of all that a stage's container is told, where everything is set."""
    for name in AWS | {"SERVING_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}:
        monkeypatch.setenv(name, "http://store:9000" if name == "AWS_ENDPOINT_URL" else "a-value")
    settings, request = load_settings(), request_of(stage, **fields)
    return {*container_environment(stage, request, settings), *container_secrets(stage, request, settings)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_told_of_the_service_only_if_it_asks_it(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    assert told(monkeypatch, stage) & SERVICE == (SERVICE if stage in {"deploy", "clean"} else set())


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_has_keys_for_aws_unless_its_request_names_an_address_there(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    assert not told(monkeypatch, stage) & AWS
    assert "MLFLOW_TRACKING_PASSWORD" in told(monkeypatch, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_logs_in_to_mlflow_as_the_user_that_may_do_its_part(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setenv("MLFLOW_STAGES_PASSWORD", "of-stages")
    monkeypatch.setenv("MLFLOW_REGISTRY_PASSWORD", "of-registry")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-the-administrator")
    settings, request = load_settings(), request_of(stage)
    part = "registry" if stage in {"register", "rollback", "deploy", "clean"} else "stages"
    assert container_environment(stage, request, settings)["MLFLOW_TRACKING_USERNAME"] == f"pipeline-{part}"
    assert container_secrets(stage, request, settings)["MLFLOW_TRACKING_PASSWORD"] == f"of-{part}"
    assert secret_keys(stage, settings) == {"MLFLOW_TRACKING_PASSWORD": f"MLFLOW_{part.upper()}_PASSWORD"}


@pytest.mark.parametrize("stage", STAGES)
def test_without_the_stacks_users_it_logs_in_as_airflow_does(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "team")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-the-team")
    settings, request = load_settings(), request_of(stage)
    assert container_environment(stage, request, settings)["MLFLOW_TRACKING_USERNAME"] == "team"
    assert container_secrets(stage, request, settings)["MLFLOW_TRACKING_PASSWORD"] == "of-the-team"
    assert secret_keys(stage, settings) == {"MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD"}


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("prepare", {"dataset": "image_folder", "source": "s3://team/photos"}),
        ("prepare", {"corrections": "s3://team/corrections.csv"}),
        ("predict", {"images": "s3://team/photos/"}),
        ("predict", {"images": "/data/photos", "out": "s3://team/found/"}),
        ("train", WEIGHTS),
        ("tune", WEIGHTS),
    ],
)
def test_one_that_does_has_them(monkeypatch: pytest.MonkeyPatch, stage: str, fields: dict[str, object]) -> None:
    known = {name: value for name, value in fields.items() if name in STAGES[stage].request.model_fields}
    assert told(monkeypatch, stage, **known) >= AWS


GOLD = {"PIPELINE_GOLD_MEMORY_MIB": "0", "PIPELINE_GOLD_DISK_GIB": "20"}


@pytest.mark.parametrize("stage", ["train", "evaluate", "compress"])
def test_a_stage_that_reads_gold_is_told_how_much_it_may_keep_of_it(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    settings, request = load_settings(), request_of(stage)
    assert not container_environment(stage, request, settings).keys() & GOLD.keys()
    for name, value in GOLD.items():
        monkeypatch.setenv(name, value)
    assert GOLD.items() <= container_environment(stage, request, load_settings()).items()


def test_prepare_alone_is_told_how_much_memory_images_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_PREPARE_MEMORY_GIB", "6")
    settings = load_settings()
    told_to = {stage: container_environment(stage, request_of(stage), settings) for stage in ("prepare", "train")}
    assert told_to["prepare"]["PIPELINE_PREPARE_MEMORY_GIB"] == "6"
    assert "PIPELINE_PREPARE_MEMORY_GIB" not in told_to["train"]

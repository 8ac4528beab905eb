"""Which version `python -m tasks export-onnx` exports, and what it says."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.cli.export_onnx import export
from tasks.errors import ModelError, SettingsError
from tasks.records import registry, tracking
from tasks.serving import onnx_export
from tasks.settings import Settings

NAME = "vision-classifier"


@pytest.fixture
def asked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The versions that an export was asked for; 1 and 2 exist, 1 is champion."""
    found: list[tuple[str, int]] = []

    def ensure(version: ModelVersion) -> str:
        found.append((version.name, int(version.version)))
        return "said"

    monkeypatch.setattr(onnx_export, "ensure", ensure)
    experiment_id = tracking.connect(settings)
    for _ in (1, 2):
        run_id = MlflowClient().create_run(experiment_id).info.run_id
        registry.create_version(NAME, f"runs:/{run_id}/model", run_id, {}, "")
    registry.set_alias(NAME, registry.CHAMPION, 1)
    return found


def test_by_default_the_champion(asked: list[tuple[str, int]], settings: Settings) -> None:
    assert export(settings) == "said"
    assert asked == [(NAME, 1)]


@pytest.mark.parametrize("text", ["2", f"models:/{NAME}/2", "run"])
def test_what_serving_model_names(asked: list[tuple[str, int]], settings: Settings, text: str) -> None:
    text = str(registry.by_number(NAME, 2).run_id) if text == "run" else text
    export(settings.model_copy(update={"serving_model": text}))
    assert asked == [(NAME, 2)]


def test_a_version_by_its_number(asked: list[tuple[str, int]], settings: Settings) -> None:
    export(settings.model_copy(update={"serving_model": "1"}), 2)
    assert asked == [(NAME, 2)]
    with pytest.raises(ModelError, match="has no version 9"):
        export(settings, 9)


def test_before_the_first_promotion_there_is_nothing_to_do(asked: list[tuple[str, int]], settings: Settings) -> None:
    registry.delete_alias(NAME, registry.CHAMPION)
    assert export(settings) == f"{NAME} has no champion yet; nothing to do"
    assert (
        export(settings.model_copy(update={"serving_registered_model": "new"}))
        == "new has no champion yet; nothing to do"
    )
    assert asked == []


def test_a_run_that_was_never_registered(asked: list[tuple[str, int]], settings: Settings) -> None:
    run_id = MlflowClient().create_run(tracking.connect(settings)).info.run_id
    with pytest.raises(ModelError, match="names no registered version to give an ONNX form"):
        export(settings.model_copy(update={"serving_model": run_id}))


def test_a_setting_that_names_no_model(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="names no model"):
        export(settings.model_copy(update={"serving_model": "latest"}))

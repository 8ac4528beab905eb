from __future__ import annotations

import json

import pytest

from pipeline.operator.resources import resources_for
from tasks.contract.stages import STAGES
from tasks.errors import SettingsError
from tasks.settings import load_settings


@pytest.mark.parametrize(("stage", "memory"), [("tune", "16g"), ("evaluate", "8g"), ("deploy", "1g")])
def test_the_default_is_that_of_the_stages_entry(stage: str, memory: str) -> None:
    assert resources_for(stage, load_settings()) == STAGES[stage].resources
    assert STAGES[stage].resources.memory == memory


def test_later_wishes_win_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESOURCES", json.dumps({"train": {"cpus": 4, "memory": "32g"}}))
    resources = resources_for("train", load_settings(), {"memory": "48g", "gpus": 1})
    assert resources.model_dump(exclude_defaults=True) == {"cpus": 4.0, "memory": "48g", "shm_size": "4g", "gpus": 1}


def test_the_dag_runs_own_wish_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESOURCES", json.dumps({"train": {"cpus": 4}}))
    asked = {"train": {"memory": "1g", "node_selector": {"pool": "gpu"}}, "tune": {"gpus": 2}}
    resources = resources_for("train", load_settings(), {"memory": "48g"}, asked)
    assert resources.model_dump(exclude_defaults=True) == {
        "cpus": 4.0,
        "memory": "1g",
        "shm_size": "4g",
        "node_selector": {"pool": "gpu"},
    }


def test_a_stage_that_a_run_names_wrong_is_named() -> None:
    with pytest.raises(SettingsError, match="resources: stage 'training' is unknown"):
        resources_for("train", load_settings(), None, {"training": {"cpus": 1}})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"training": {"cpus": 1}}, "stage 'training' is unknown; choose one of prepare"),
        ({"train": {"cpu": 1}}, "resources of train: cpu=1"),
        ({"train": {"memory": "lots"}}, "resources of train: memory='lots'"),
        ({"train": {"cpus": 0}}, "resources of train: cpus=0"),
    ],
)
def test_what_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, value: object, text: str) -> None:
    monkeypatch.setenv("PIPELINE_RESOURCES", json.dumps(value))
    with pytest.raises(SettingsError) as failure:
        resources_for("train", load_settings())
    assert text in str(failure.value)


def test_resources_that_are_not_json_are_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESOURCES", "{train: 4}")
    with pytest.raises(SettingsError, match="PIPELINE_RESOURCES"):
        load_settings()

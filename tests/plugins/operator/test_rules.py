"""The administrators' rules where a stage is started: they stop a run early, and reach the stages that need them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from pipeline.operator.job import container_environment
from pipeline.operator.params import stage_params
from pipeline.operator.resources import resources_for
from pipeline.operator.stage_operator import check_stages
from pipeline.runtimes import stage_task
from tasks.contract.policies_file import parse_policies
from tasks.contract.stages import STAGES
from tasks.errors import RequestError, SettingsError
from tasks.settings import load_settings
from tests.plugins.operator.stage_requests import request_of

RUN_ID = "12345678901234567890123456789012"
RULES = {
    "source": "policies.yaml",
    "models": {"pets": {"gate": {"min_accuracy": 0.9, "max_latency_ms": 20.0}, "approval": {"by": ["bob"]}}},
    "resources": {"all": {"memory": "8g", "gpus": 0}, "train": {"gpus": 1, "node_selector": {"pool": ["gpu"]}}},
}


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_POLICIES", json.dumps(RULES))


@pytest.fixture
def dag() -> DAG:
    with DAG("d", params=stage_params("prepare", "train", "evaluate", "register")) as dag:
        train = stage_task("train", prepare_run_id=stage_task("prepare").output["run_id"])
        evaluate = stage_task("evaluate", train_run_id=train.output["run_id"])
        stage_task("register", evaluate_run_id=evaluate.output["run_id"], approval={})
    return dag


def params(dag: DAG, **conf: Any) -> dict[str, Any]:
    return {**dag.params.dump(), "registered_model": "pets", **conf}


def job(dag: DAG, stage: str, **conf: Any) -> Any:
    task: Any = dag.get_task(stage)
    given = {"train_run_id": RUN_ID} if stage == "evaluate" else {"evaluate_run_id": RUN_ID}
    task.request_fields = {**task.request_fields, **given}
    context = {
        "ti": SimpleNamespace(run_id="r", map_index=-1),
        "dag_run": SimpleNamespace(conf=conf, triggering_user_name="ann"),
        "params": params(dag, **conf),
    }
    return task.job(context)


@pytest.mark.parametrize(
    ("conf", "error", "words"),
    [
        (
            {"min_accuracy": 0.5},
            RequestError,
            "min_accuracy=0.5 asks for less than the floor of 'pets' in policies.yaml",
        ),
        ({"max_latency_ms": 50}, RequestError, "max_latency_ms=50.0 asks for less"),
        (
            {"resources": {"train": {"memory": "9g"}}},
            SettingsError,
            "memory='9g' is more than policies.yaml allows, 8g",
        ),
        ({"resources": {"train": {"gpus": 2}}}, SettingsError, "gpus=2 is more than policies.yaml allows, 1"),
        ({"resources": {"evaluate": {"gpus": 1}}}, SettingsError, "gpus=1 is more than policies.yaml allows, 0"),
        ({"resources": {"train": {"node_selector": {"pool": "cpu"}}}}, SettingsError, "allows, pool: gpu"),
    ],
)
def test_a_run_that_asks_for_too_little_or_too_much_is_refused_before_its_first_stage(
    dag: DAG, conf: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        check_stages(dag, params(dag, **conf))
    assert words in str(refused.value)
    if "resources" not in conf:
        check_stages(dag, params(dag, **conf, registered_model="dogs"))


@pytest.mark.parametrize(("asked", "had"), [({}, 0.9), ({"min_accuracy": 0.95}, 0.95)])
def test_evaluate_is_asked_for_the_floors(dag: DAG, asked: dict[str, float], had: float) -> None:
    check_stages(dag, params(dag, **asked))
    request = job(dag, "evaluate", **asked).request
    assert (request.min_accuracy, request.max_latency_ms, request.min_macro_f1) == (had, 20.0, 0.3)


def test_register_is_asked_for_an_approval_where_a_rule_does(dag: DAG) -> None:
    assert job(dag, "register").request.require_approval is True
    assert job(dag, "register", registered_model="dogs").request.require_approval is False
    assert job(dag, "register", registered_model="dogs", require_approval=True).request.require_approval is True


@pytest.mark.parametrize("stage", STAGES)
def test_the_containers_of_the_stages_that_change_the_registry_are_told_the_rules(stage: str) -> None:
    told = container_environment(stage, request_of(stage), load_settings())
    assert ("PIPELINE_POLICIES" in told) is (stage in {"register", "rollback", "deploy", "clean"})
    if "PIPELINE_POLICIES" in told:
        rules = parse_policies(told["PIPELINE_POLICIES"], "PIPELINE_POLICIES").rules_for("pets")
        assert rules is not None
        assert rules.text == "policies.yaml (pets): min_accuracy 0.9, max_latency_ms 20.0, approval by bob"


def test_a_dag_cannot_give_a_stage_other_rules(dag: DAG) -> None:
    with dag, pytest.raises(RequestError, match="PIPELINE_POLICIES is the administrators' own"):
        stage_task("register", evaluate_run_id=RUN_ID, approval={}, environment={"PIPELINE_POLICIES": "{{ params.x }}"})


def test_a_dag_file_or_a_setting_over_a_ceiling_fails_when_it_is_read(
    dag: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dag, pytest.raises(SettingsError, match="resources of prepare: gpus=1 is more than "):
        stage_task("prepare", task_id="again", resources={"gpus": 1})
    monkeypatch.setenv("PIPELINE_RESOURCES", '{"train": {"memory": "24g"}}')
    with dag, pytest.raises(SettingsError, match="resources of train: memory='24g'"):
        stage_task("train", task_id="once more", prepare_run_id=RUN_ID)


def test_what_nobody_asked_for_is_lowered() -> None:
    assert STAGES["train"].resources.memory == "16g"
    assert resources_for("train", load_settings()).memory == "8g"
    assert resources_for("deploy", load_settings()).memory == "1g"


def test_wrong_rules_fail_when_the_dag_file_is_read(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_POLICIES", "/no/such/file")
    with dag, pytest.raises(SettingsError, match="PIPELINE_POLICIES='/no/such/file' cannot be read"):
        stage_task("prepare", task_id="again")

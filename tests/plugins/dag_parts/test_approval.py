"""The question that a person gets: of which model, and when there is none to ask."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, TaskGroup

from pipeline.dag_parts.approval import PromotionApproval
from pipeline.dag_parts.compression import compress_and_promote
from pipeline.dag_parts.notifications import describe_question
from pipeline.dag_parts.promotion import promote_and_deploy
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task

RUN_ID = "12345678901234567890123456789012"


@pytest.fixture
def dag() -> DAG:
    """A training and a compression, each with its approval."""
    with DAG("d", params=stage_params("train", "compress", "evaluate", "register", "deploy")) as dag:
        promote_and_deploy(stage_task("train", prepare_run_id=RUN_ID))
        with TaskGroup("compression"):
            compress_and_promote(trained_by=RUN_ID)
    return dag


@pytest.mark.parametrize(("task_id", "model"), [("approve", "model"), ("compression.approve", "compressed model")])
def test_the_page_and_the_notification_say_which_model_is_meant(
    dag: DAG, task_id: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Any = dag.get_task(task_id)
    assert task.subject == f"Promote this {model} to champion of {{{{ params.registered_model }}}}?"
    monkeypatch.setattr(HITLOperator, "generate_link_to_ui_from_context", lambda context: "http://airflow/answer")
    instance = SimpleNamespace(dag_id="d", run_id="r")
    context: Any = {"ti": instance, "task": task, "params": {"registered_model": "pets"}}
    message = describe_question(context)
    assert message.subject == f"d: approve or reject a {model} that passed the gate"
    assert message.text.splitlines()[-1] == "http://airflow/answer"


@pytest.mark.parametrize(("required", "promote"), [(False, True), (False, False), (True, False)])
def test_nobody_is_asked_unless_it_is_required_and_the_gate_agrees(dag: DAG, required: bool, promote: bool) -> None:
    task: Any = dag.get_task("approve")
    task.promote = promote  # as Airflow renders it
    context = {"params": {"require_approval": required}}
    assert inspect.unwrap(PromotionApproval.execute)(task, context) == {}

"""The question that a person gets: of which model, and when there is none to ask."""

from __future__ import annotations

import hashlib
import inspect
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

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
    context = {"params": {"require_approval": required, "registered_model": "pets"}}
    assert inspect.unwrap(PromotionApproval.execute)(task, context) == {}


@pytest.fixture
def ask(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The approval of a model that passed the gate; keeps each question that Airflow is to show."""
    task: Any = dag.get_task("approve")
    task.promote, task.table, task.notifiers, task.questions = True, "| check |", [], []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **shown: task.questions.append(shown["body"]))
    return task


def under(monkeypatch: pytest.MonkeyPatch, **rules: Any) -> None:
    monkeypatch.setenv("PIPELINE_POLICIES", json.dumps({"source": "policies.yaml", "models": {"pets": rules}}))


def context_of(started_by: str | None, model: str = "pets") -> dict[str, Any]:
    run = SimpleNamespace(triggering_user_name=started_by)
    params = {"require_approval": False, "registered_model": model}
    return {"params": params, "dag_run": run, "task_instance": SimpleNamespace(id="an-id")}


def answer(task: Any, by: str | None, chosen: str, started_by: str | None = "ann") -> dict[str, Any]:
    event = {
        "chosen_options": [chosen],
        "params_input": {"comment": "looks right"},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": {"id": "7", "name": by} if by else None,
    }
    return dict(task.execute_complete(context_of(started_by), event, shown="of the page"))


def test_the_rules_ask_though_the_run_does_not_and_the_page_shows_them(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    under(monkeypatch, gate={"min_accuracy": 0.9}, approval={"by": ["bob"]})
    with pytest.raises(TaskAwaitingInput) as waits:
        inspect.unwrap(PromotionApproval.execute)(ask, context_of("ann"))
    assert waits.value.kwargs == {"shown": hashlib.sha256(b"| check |").hexdigest()}
    assert ask.questions == ["| check |\n\nRules: `policies.yaml (pets): min_accuracy 0.9, approval by bob`"]
    assert inspect.unwrap(PromotionApproval.execute)(ask, context_of("ann", model="dogs")) == {}


@pytest.mark.parametrize(
    ("rule", "by", "started_by"),
    [
        ({}, "ann", "ann"),
        ({"by": ["ann"]}, "ann", "ann"),
        ({"by": ["bob"]}, "carl", "ann"),
        ({"by": ["bob"]}, "carl", None),
    ],
)
def test_an_approval_that_does_not_count_leaves_the_question_open(
    ask: Any, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], by: str, started_by: str | None
) -> None:
    under(monkeypatch, approval=rule)
    with pytest.raises(TaskAwaitingInput) as waits:
        answer(ask, by, "Approve", started_by)
    assert len(ask.questions) == 1
    assert waits.value.kwargs == {"shown": "of the page"}


@pytest.mark.parametrize(
    ("by", "chosen", "started_by"),
    [("bob", "Approve", "ann"), ("bob", "Approve", None), ("ann", "Reject", "ann"), (None, "Reject", "ann")],
)
def test_other_answers_count(
    ask: Any, monkeypatch: pytest.MonkeyPatch, by: str | None, chosen: str, started_by: str | None
) -> None:
    under(monkeypatch, approval={"by": ["bob"]})
    given = answer(ask, by, chosen, started_by)
    assert given["approved"] is (chosen == "Approve")
    assert (given["by"], given["evidence"]) == (by or "nobody (no answer in time)", "of the page")
    assert ask.questions == []


def test_without_rules_who_started_a_run_may_approve_it(ask: Any) -> None:
    assert answer(ask, "ann", "Approve", "ann")["by"] == "ann"


def test_rules_that_cannot_be_read_are_no_answer(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_POLICIES", "/no/such/policies.yaml")
    with pytest.raises(AirflowFailException, match=r"PIPELINE_POLICIES='/no/such/policies.yaml' cannot be read"):
        answer(ask, "bob", "Approve")
    with pytest.raises(AirflowFailException, match="cannot be read"):
        inspect.unwrap(PromotionApproval.execute)(ask, context_of("ann"))

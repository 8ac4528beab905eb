"""A person in the loop: approval before a promotion, rollback after one, and the ledger that tells of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.records import ledger, queries, tracking
from tasks.records.ledger import Kind, Record
from tasks.settings import Settings
from tests.stack.airflow_stack.conftest import DAG, MODEL, ROLLBACK_DAG, DailyRun, User, ended, served, trigger
from tests.stack.conftest import Stack

pytestmark = pytest.mark.docker
APPROVAL = f"{DAG}/dagRuns/asked/taskInstances/approve/-1/hitlDetails"


@pytest.fixture(scope="module")
def model() -> str:
    """The registered model that the stack's service follows."""
    return MODEL


@pytest.fixture(scope="module")
def champions(airflow: Stack, admin: User) -> Iterator[None]:
    """Two promotions, the second one after a person said yes; MLflow's client pointed at the stack."""
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200
    assert admin.ask("PATCH", ROLLBACK_DAG, {"is_paused": False}).status_code == 200
    with pytest.MonkeyPatch.context() as patch:
        user, password = airflow.login
        patch.setenv("MLFLOW_TRACKING_USERNAME", user)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        tracking.connect(Settings(mlflow_tracking_uri=airflow.mlflow_url, pipeline_experiment="promotion-tests"))
        try:
            yield
        finally:  # clients of later tests would ask this stack for registered models
            mlflow.set_tracking_uri("")
            mlflow.set_registry_uri("")


def wait_for(admin: User, state: str) -> None:
    deadline = time.monotonic() + 1800
    while (now := admin.ask("GET", f"{DAG}/dagRuns/asked/taskInstances/approve").json().get("state")) != state:
        assert time.monotonic() < deadline, now
        time.sleep(1)


def records(model: str) -> list[Record]:
    return list(ledger.history(model))


def reused(dag_run_id: str) -> set[str]:
    """The stages of a DAG run that took the result of an earlier one."""
    experiment = MlflowClient().get_experiment_by_name(MODEL)
    assert experiment is not None
    runs = queries.find_runs(experiment.experiment_id, {"pipeline.dag_run_id": dag_run_id})
    return {run.data.tags["pipeline.stage"] for run in runs if "pipeline.reused_from" in run.data.tags}


def test_a_model_waits_for_a_word_and_the_word_is_kept(
    champions: None, by_hand: DailyRun, airflow: Stack, admin: User, viewer: User, model: str
) -> None:
    before = by_hand.served
    trigger(admin, "asked", epochs=2, seed=2, require_approval=True)
    wait_for(admin, "awaiting_input")
    # As a person would, not at once: Airflow 3.3 takes an answer that comes before its scheduler has noted the pause (a
    # few seconds) for a lost task, and asks again.
    time.sleep(15)
    shown = admin.ask("GET", APPROVAL).json()
    assert model in shown["subject"]
    assert "| accuracy |" in shown["body"]
    assert "| not worse |" in shown["body"]
    answer: dict[str, Any] = {"chosen_options": ["Approve"], "params_input": {"comment": "looks right to me"}}
    assert viewer.ask("PATCH", APPROVAL, answer).status_code == 403
    assert served(airflow) == before
    assert admin.ask("PATCH", APPROVAL, answer).status_code == 200
    assert ended(admin, "asked")[0] == "success"
    newest = records(model)[0].entry
    assert (newest.kind, newest.from_version, newest.to_version) == (Kind.PROMOTION, before, served(airflow))
    assert newest.by == "admin"
    assert "approved by admin (looks right to me)" in newest.reason


@pytest.mark.parametrize("conf", [{}, {"reason": ""}, {"reason": "ok", "version": 0}])
def test_a_rollback_without_a_reason_or_a_version_is_not_started(
    champions: None, admin: User, model: str, conf: dict[str, Any]
) -> None:
    before = len(records(model))
    body = {"dag_run_id": "bad", "logical_date": None, "conf": {"registered_model": model} | conf}
    assert admin.ask("POST", f"{ROLLBACK_DAG}/dagRuns", body).status_code in {400, 422}
    assert len(records(model)) == before


def test_a_version_that_does_not_exist_changes_nothing(
    champions: None, airflow: Stack, admin: User, model: str
) -> None:
    before, number = served(airflow), len(records(model))
    conf = {"reason": "a typing error", "version": 99, "registered_model": model}
    trigger(admin, "nowhere", dag=ROLLBACK_DAG, **conf)
    state, tasks = ended(admin, "nowhere", dag=ROLLBACK_DAG)
    assert (state, tasks["rollback"]["state"], tasks["rollback"]["try_number"]) == ("failed", "failed", 1)
    assert (served(airflow), len(records(model))) == (before, number)


def test_one_form_undoes_a_promotion_and_the_service_follows(
    champions: None, airflow: Stack, admin: User, model: str
) -> None:
    former = records(model)[0].entry
    trigger(admin, "undo", dag=ROLLBACK_DAG, reason="sees eights everywhere", registered_model=model)
    state, tasks = ended(admin, "undo", dag=ROLLBACK_DAG)
    assert state == "success", {name: task["state"] for name, task in tasks.items()}
    assert served(airflow) == former.from_version
    newest = records(model)[0].entry
    assert (newest.kind, newest.from_version, newest.to_version, newest.by, newest.reason) == (
        Kind.ROLLBACK, former.to_version, former.from_version, "admin", "sees eights everywhere"
    )  # fmt: skip


def test_what_was_rolled_back_is_not_promoted_again_by_a_run(
    champions: None, airflow: Stack, admin: User, model: str
) -> None:
    before = served(airflow)
    trigger(admin, "again", epochs=2, seed=2)  # the same weights as the ones rolled back
    state, tasks = ended(admin, "again")
    assert (state, tasks["deploy"]["state"]) == ("success", "skipped")
    assert "train" in reused("again")
    assert served(airflow) == before
    newest = records(model)[0].entry
    assert newest.kind == Kind.REFUSAL
    assert "rolled back by admin" in newest.reason
    assert "sees eights everywhere" in newest.reason

"""register under the administrators' rules, which it has from its own environment and not from its request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import EvaluateRequest, RegisterRequest, RegisterResult
from tasks.errors import RequestError, SettingsError
from tasks.records import ledger, registry, tracking, verdict_log
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.settings import Settings
from tasks.stages import evaluate, register
from tests.tasks.store_copies import Beginnings

PERFECT = [0, 1, 2, 3]
THREE_OF_FOUR = [0, 1, 2, 2]
BY_BOB = {"approved": True, "by": "bob", "at": "2026-01-01T00:00:00Z", "comment": "fine"}
Register = Callable[..., RegisterResult]


@pytest.fixture
def evaluation(
    beginnings: Beginnings,
    settings: Settings,
    train_run: Callable[..., str],
    identity: Callable[[str], TaskIdentity],
) -> str:
    """The evaluate run of a model with accuracy 0.75, which the run's own limits let pass."""

    def make() -> str:
        request = EvaluateRequest.model_validate(
            {"task": identity("evaluate"), "train_run_id": train_run(THREE_OF_FOUR), "registered_model": "pets"}
        )
        with tracking.stage_run(request, "evaluate", settings) as run:
            judged = evaluate.run(request, EvaluateInputs.resolve(request, run), run, settings)
            tracking.record_result(run, judged)
        assert judged.promote
        return judged.run_id

    return beginnings.begin("passed", settings, make)


@pytest.fixture
def run_register(settings: Settings, identity: Callable[[str], TaskIdentity]) -> Register:
    def call(
        evaluate_run_id: str, models: Any, approval: Any = None, *, started_by: str | None = "ann", **fields: Any
    ) -> RegisterResult:
        task = identity("register").model_copy(update={"user": started_by})
        seen = {"evidence": verdict_log.table_sha256(tracking.RunTags.read(evaluate_run_id))} if approval else {}
        request = RegisterRequest.model_validate(
            {"task": task, "evaluate_run_id": evaluate_run_id, "registered_model": "pets"}
            | {"approval": seen | (approval or {}), **fields}
        )
        rules = json.dumps({"source": "policies.yaml", "models": models})
        with tracking.stage_run(request, "register", settings) as run:
            return register.run(request, run, settings.model_copy(update={"pipeline_policies": rules}))

    return call


def nothing_is_registered() -> bool:
    return MlflowClient().search_registered_models() == []


def test_a_candidate_that_passed_the_laxer_gate_it_asked_for_is_refused_by_the_floor(
    evaluation: str, run_register: Register
) -> None:
    result = run_register(evaluation, {"pets": {"gate": {"min_accuracy": 0.9}}})
    assert not result.promoted
    assert "test accuracy 0.7500 is under 0.9000, the floor" in result.reason
    assert result.reason.endswith("; rules of policies.yaml (pets): min_accuracy 0.9")
    assert registry.by_alias("pets") is None
    (record,) = ledger.history("pets")
    assert (record.entry.kind, record.entry.reason) == (ledger.Kind.REFUSAL, result.reason)
    assert "| accuracy | 0.75 | 0.9 | FAIL |" in registry.by_number("pets", result.version).description


def test_one_that_meets_the_floors_is_promoted_and_the_ledger_names_them(
    evaluation: str, run_register: Register
) -> None:
    result = run_register(evaluation, {"p*": {"gate": {"min_accuracy": 0.7, "max_slowdown": 1.5}}})
    assert result.promoted
    (record,) = ledger.history("pets")
    assert "rules of policies.yaml (p*): min_accuracy 0.7, max_slowdown 1.5" in record.entry.reason


def test_rules_for_other_models_change_nothing(evaluation: str, run_register: Register) -> None:
    result = run_register(evaluation, {"dogs": {"gate": {"min_accuracy": 1.0}, "approval": {}}})
    assert result.promoted
    assert "rules" not in result.reason


@pytest.mark.parametrize("asked", [{}, {"require_approval": False}])
def test_who_leaves_the_approval_out_of_the_request_gets_no_promotion(
    evaluation: str, run_register: Register, asked: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match=r"policies.yaml \(pets\): approval by bob, but nobody was asked; clear"):
        run_register(evaluation, {"pets": {"approval": {"by": ["bob"]}}}, **asked)
    assert nothing_is_registered()


@pytest.mark.parametrize(
    ("approval", "started_by", "why"),
    [
        ({"by": ["bob"]}, "bob", "bob started this run, so somebody else must approve it"),
        ({}, "bob", "bob started this run"),
        ({"by": ["carl", "dora"]}, "ann", "bob may not approve it; carl or dora may"),
        ({"required": False, "by": ["carl"]}, "ann", "bob may not approve it; carl may"),
    ],
)
def test_an_approval_by_who_may_not_give_it_promotes_nothing(
    evaluation: str, run_register: Register, approval: dict[str, Any], started_by: str, why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        run_register(evaluation, {"pets": {"approval": approval}}, BY_BOB, started_by=started_by)
    assert nothing_is_registered()


@pytest.mark.parametrize("started_by", ["ann", None])
def test_an_approval_by_who_may_give_it_promotes(
    evaluation: str, run_register: Register, started_by: str | None
) -> None:
    result = run_register(evaluation, {"pets": {"approval": {"by": ["bob"]}}}, BY_BOB, started_by=started_by)
    assert result.promoted
    assert result.reason.endswith("; rules of policies.yaml (pets): approval by bob; approved by bob (fine)")
    (record,) = ledger.history("pets")
    assert record.entry.by == "bob"


@pytest.mark.parametrize("evidence", [None, "0" * 64])
def test_an_approval_of_other_evidence_promotes_nothing(
    evaluation: str, run_register: Register, evidence: str | None
) -> None:
    """As when somebody clears train and evaluate once the model is approved."""
    with pytest.raises(RequestError, match="bob approved other evidence than evaluate has logged by now; clear the"):
        run_register(evaluation, {"pets": {"approval": {}}}, BY_BOB | {"evidence": evidence})
    assert nothing_is_registered()


def test_the_evidence_of_an_approval_is_the_table_that_the_approver_saw(
    evaluation: str, run_register: Register
) -> None:
    table = json.loads(tracking.tag_of(evaluation, tracking.RESULT_TAG))["table"]
    seen = {"evidence": hashlib.sha256(table.encode()).hexdigest()}
    assert run_register(evaluation, {"pets": {"approval": {}}}, BY_BOB | seen).promoted


def test_anybody_may_reject(evaluation: str, run_register: Register) -> None:
    rejection = BY_BOB | {"approved": False}
    result = run_register(evaluation, {"pets": {"approval": {"by": ["carl"]}}}, rejection, started_by="bob")
    assert not result.promoted
    assert result.reason.startswith("refused by bob (fine), though the gate says promoted: ")


def test_rules_that_cannot_be_read_register_nothing(evaluation: str, run_register: Register) -> None:
    with pytest.raises(SettingsError, match="min_acc: unknown key"):
        run_register(evaluation, {"pets": {"gate": {"min_acc": 0.1}}})
    assert nothing_is_registered()

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackRequest, RollbackResult
from tasks.contract.stages import parse_request
from tasks.errors import DataError, ModelError, RequestError
from tasks.records import ledger, registry, removed_weights, tracking
from tasks.serving import onnx_export
from tasks.settings import Settings
from tasks.stages import rollback
from tests.tasks.store_copies import Beginnings

NAME = "pets"
Rollback = Callable[..., RollbackResult]


@pytest.fixture
def run_rollback(settings: Settings) -> Rollback:
    def call(day: str = "mon", *, policies: str | None = None, **fields: object) -> RollbackResult:
        task = TaskIdentity(dag_id="rollback_champion", dag_run_id=day, task_id="rollback", user="ann")
        asked = {"task": task, "registered_model": NAME, "reason": "sees cats everywhere", **fields}
        request = RollbackRequest.model_validate(asked)
        with tracking.stage_run(request, "rollback", settings) as run:
            return rollback.run(request, run, settings.model_copy(update={"pipeline_policies": policies}))

    return call


@pytest.fixture
def three_champions(settings: Settings, beginnings: Beginnings) -> None:
    """Versions 1, 2 and 3, promoted one after the other; each was logged in ONNX."""
    beginnings.begin("three champions", settings, lambda: _promote_three(settings))


def _register(experiment_id: str, version: int) -> None:
    run = MlflowClient().create_run(experiment_id)
    MlflowClient().log_text(run.info.run_id, "flavors: {onnx: {data: data/model.onnx}}", "model/MLmodel")
    tags = {registry.SHA256: f"sha{version}"}
    registry.create_version(NAME, f"runs:/{run.info.run_id}/model", run.info.run_id, tags, "")


def _promote_three(settings: Settings) -> None:
    experiment_id = tracking.connect(settings)
    for version in (1, 2, 3):
        _register(experiment_id, version)
        before = version - 1 or None
        ledger.move_champion(
            ledger.Entry(
                f"daily/{version}", ledger.Kind.PROMOTION, NAME, before, version, version, f"sha{version}", "daily", ""
            )
        )


def champion() -> int:
    found = registry.by_alias(NAME)
    assert found is not None
    return int(found.version)


def test_back_to_the_champion_before(three_champions: None, run_rollback: Rollback) -> None:
    result = run_rollback()
    assert (result.version, result.previous_version, champion()) == (2, 3, 2)
    told = next(ledger.history(NAME)).entry
    assert (told.kind, told.from_version, told.to_version) == (ledger.Kind.ROLLBACK, 3, 2)
    assert (told.by, told.reason) == ("ann", "sees cats everywhere")
    assert ledger.rolled_back(NAME, "sha3")


def test_back_to_a_version_by_number_and_forward_again(three_champions: None, run_rollback: Rollback) -> None:
    assert run_rollback("mon", version=1).version == 1
    assert run_rollback("tue", version=3).previous_version == 1
    assert champion() == 3
    assert ledger.rolled_back(NAME, "sha3") is None


def test_a_retry_moves_nothing_twice(three_champions: None, run_rollback: Rollback) -> None:
    assert run_rollback().run_id == run_rollback().run_id
    assert champion() == 2
    assert len(list(ledger.history(NAME))) == 4


def test_a_retry_after_another_hand_is_refused(three_champions: None, run_rollback: Rollback) -> None:
    run_rollback("mon", version=2)
    run_rollback("tue", version=1)
    with pytest.raises(ModelError, match="is version 1 now, no longer version 3; start a new rollback"):
        run_rollback("mon", version=2)
    assert champion() == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"version": 9}, "no version 9"), ({"version": 3}, "champion of 'pets' already")],
)
def test_where_it_cannot_go_nothing_changes(
    three_champions: None, run_rollback: Rollback, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        run_rollback(**fields)
    assert champion() == 3
    assert len(list(ledger.history(NAME))) == 3


def test_a_champion_that_was_made_by_hand_gets_its_record_when_it_is_named(
    three_champions: None, run_rollback: Rollback
) -> None:
    registry.set_alias(NAME, registry.CHAMPION, 2)
    result = run_rollback(version=2)
    assert (result.previous_version, result.version, champion()) == (3, 2, 2)
    told = next(ledger.history(NAME)).entry
    assert (told.kind, told.from_version, told.to_version, told.former_sha256) == ("rollback", 3, 2, "sha3")
    assert ledger.is_recorded(NAME, 2)


def test_a_champion_of_before_the_ledger_gets_its_record_too(settings: Settings, run_rollback: Rollback) -> None:
    _register(tracking.connect(settings), 1)
    registry.set_alias(NAME, registry.CHAMPION, 1)
    result = run_rollback(version=1)
    assert (result.previous_version, result.version) == (1, 1)
    assert ledger.is_recorded(NAME, 1)
    assert ledger.rolled_back(NAME, "sha1") is None


def test_the_first_champion_has_none_before_it(three_champions: None, run_rollback: Rollback) -> None:
    registry.set_alias(NAME, registry.CHAMPION, 1)
    with pytest.raises(ModelError, match="no champion before version 1; choose one"):
        run_rollback()


def test_no_champion_at_all(run_rollback: Rollback) -> None:
    with pytest.raises(ModelError, match="has no champion to roll back"):
        run_rollback()


def test_a_version_of_an_earlier_release_is_exported_before_it_is_champion(
    three_champions: None, run_rollback: Rollback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def export(version: ModelVersion) -> str:
        seen.append((int(version.version), champion()))
        return "pets version 1 exported to ONNX"

    monkeypatch.setattr(onnx_export, "ensure", export)
    run_rollback(version=1)
    assert seen == [(1, 3)], "before the alias moves"
    assert champion() == 1
    assert "pets version 1 exported to ONNX" in caplog.text
    assert run_rollback(version=1).version == 1  # a retry


def test_a_version_that_cannot_be_served_is_no_champion(three_champions: None, run_rollback: Rollback) -> None:
    run_id = str(registry.by_number(NAME, 1).run_id)
    MlflowClient().log_text(run_id, "flavors: {pytorch: {model_data: data}}", "model/MLmodel")
    with pytest.raises(DataError, match=r"pets version 1 has no tag 'pipeline.evaluate_run_id'"):
        run_rollback(version=1)
    assert champion() == 3
    assert len(list(ledger.history(NAME))) == 3


RULES = '{"models": {"pets": {"gate": {"min_accuracy": 1.0}, "approval": {"by": ["bob"]}}}}'


def test_under_rules_it_leads_back_to_any_champion_without_asking(
    three_champions: None, run_rollback: Rollback
) -> None:
    for day, version in (("mon", 1), ("tue", 3), ("wed", None)):
        run_rollback(day, policies=RULES, version=version)
    assert champion() == 1


def test_under_rules_it_does_not_lead_to_what_the_gate_never_promoted(
    three_champions: None, settings: Settings, run_rollback: Rollback
) -> None:
    _register(tracking.connect(settings), 4)
    with pytest.raises(ModelError, match=r"version 4 of 'pets' never was champion, and PIPELINE_POLICIES \(pets\)"):
        run_rollback(policies=RULES, version=4)
    assert (champion(), len(list(ledger.history(NAME)))) == (3, 3)
    assert run_rollback("tue", policies=RULES.replace("pets", "dogs"), version=4).version == 4


def test_under_rules_a_champion_that_was_made_by_hand_gets_its_record(
    settings: Settings, run_rollback: Rollback
) -> None:
    _register(tracking.connect(settings), 1)
    registry.set_alias(NAME, registry.CHAMPION, 1)
    assert run_rollback(policies=RULES, version=1).version == 1
    assert ledger.is_recorded(NAME, 1)


def test_a_version_whose_weights_were_removed_is_no_champion(three_champions: None, run_rollback: Rollback) -> None:
    MlflowClient().set_model_version_tag(
        NAME, "1", removed_weights.TAG, "on 2026-11-28 by clean: refused on 2026-08-01"
    )
    with pytest.raises(ModelError, match=r"the weights of version 1 of 'pets' were removed \(on 2026-11-28 .* choose"):
        run_rollback(version=1)
    assert champion() == 3
    assert len(list(ledger.history(NAME))) == 3


def test_torch_is_not_imported_for_a_version_that_has_an_onnx_form(three_champions: None, settings: Settings) -> None:
    program = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from tasks.runner.stage_process import run_stage
sys.exit(run_stage("rollback", sys.argv[1], Path(sys.argv[2])))
"""
    task = {"dag_id": "rollback_champion", "dag_run_id": "mon", "task_id": "rollback", "user": "ann"}
    request = json.dumps({"task": task, "registered_model": NAME, "reason": "a test"})
    command = [sys.executable, "-c", program, request, str(settings.pipeline_home / "return.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert champion() == 2


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_reason_must_be_given(reason: str) -> None:
    task = {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}
    with pytest.raises(RequestError, match="state a reason"):
        parse_request("rollback", {"task": task, "reason": reason})

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from mlflow import MlflowClient

from tasks.errors import ChangedError
from tasks.records import ledger, ledger_chain, registry, tracking
from tasks.records.ledger import Kind, Record
from tasks.settings import Settings
from tests.tasks.records.entries import NAME, entry, make_versions


@pytest.fixture(autouse=True)
def past(settings: Settings) -> None:
    """A promotion, a refusal, another promotion and a rollback."""
    make_versions(settings, 3)
    ledger.move_champion(entry(Kind.PROMOTION, 1, None, "mon"))
    with ledger.recorded(entry(Kind.REFUSAL, 2, 1, "tue")):
        pass
    ledger.move_champion(entry(Kind.PROMOTION, 3, 1, "wed"))
    ledger.move_champion(entry(Kind.ROLLBACK, 1, 3, "thu", former_sha256="sha3"))


def records() -> list[Record]:
    """Newest first."""
    return list(ledger.history())


def faults() -> list[str]:
    return ledger_chain.faults(records())


def test_what_the_pipeline_wrote_has_no_fault() -> None:
    rollback, third, refusal, first = records()
    assert first.previous == "none"
    assert refusal.previous == f"{first.run_id} {first.sha256}"
    assert third.previous == f"{refusal.run_id} {refusal.sha256}"
    assert rollback.previous == f"{third.run_id} {third.sha256}"
    assert faults() == []


def test_each_registered_model_has_a_chain_of_its_own() -> None:
    with ledger.recorded(entry(Kind.REFUSAL, 1, None, "fri", registered_model="cars")):
        pass
    assert records()[0].previous == "none"
    assert faults() == []


@pytest.mark.parametrize("name", ["reason", "by", "candidate_sha256", "evidence_run_id"])
def test_a_record_that_was_changed_is_named(name: str) -> None:
    refusal, after = records()[2], records()[1]
    MlflowClient().set_tag(refusal.run_id, f"ledger.{name}", "another")
    assert faults() == [f"{NAME}: record {refusal.run_id} was changed after {named(after)} was written"]


def test_a_record_that_was_turned_into_a_promotion_is_named() -> None:
    refusal = records()[2]
    for name, value in {"kind": "promotion", "to_version": "2", "moves": "true"}.items():
        MlflowClient().set_tag(refusal.run_id, f"ledger.{name}", value)
    [fault] = faults()
    assert f"record {refusal.run_id} was changed" in fault


def test_a_time_that_was_changed_in_the_database_is_named(settings: Settings) -> None:
    first = records()[3]
    with closing(sqlite3.connect(settings.pipeline_home / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET start_time = start_time - 86400000 WHERE run_uuid = ?", (first.run_id,))
    [fault] = faults()
    assert f"record {first.run_id} was changed" in fault


def test_a_record_that_is_gone_is_missed() -> None:
    refusal, after = records()[2], records()[1]
    MlflowClient().delete_run(refusal.run_id)
    assert faults() == [
        f"{NAME}: record {refusal.run_id}, which {named(after)} follows, is gone; restore that run in MLflow"
    ]
    MlflowClient().restore_run(refusal.run_id)
    assert faults() == []


def test_the_newest_record_is_missed_by_the_alias() -> None:
    MlflowClient().delete_run(records()[0].run_id)
    [fault] = faults()
    assert fault.startswith(f"{NAME}: champion is version 1, but the newest move, promotion ")
    assert "made it 3: someone moved the alias without a record, or newer records are gone" in fault


def test_an_alias_that_was_moved_by_hand_is_told() -> None:
    registry.set_alias(NAME, registry.CHAMPION, 2)
    [fault] = faults()
    assert fault.startswith(f"{NAME}: champion is version 2, but the newest move, rollback ")
    registry.delete_alias(NAME, registry.CHAMPION)
    [fault] = faults()
    assert fault.startswith(f"{NAME}: champion is version -, but")


def test_a_record_that_no_stage_wrote_is_told() -> None:
    experiment_id = tracking.experiment(ledger.EXPERIMENT)
    forged = MlflowClient().create_run(experiment_id, tags=entry(Kind.REFUSAL, 2, 1, "forged").tags)
    [fault] = faults()
    assert f"refusal {forged.info.run_id}" in fault
    assert "names no record before it: no stage wrote it" in fault


def test_a_second_first_record_is_told() -> None:
    experiment_id = tracking.experiment(ledger.EXPERIMENT)
    tags = entry(Kind.REFUSAL, 2, 1, "forged").tags | {ledger.PREVIOUS: ledger.FIRST}
    MlflowClient().create_run(experiment_id, tags=tags)
    [fault] = faults()
    assert "says that it is the first, but there are older ones" in fault


def test_records_of_earlier_releases_are_chained_from_the_first_new_one_on() -> None:
    for record in records():
        MlflowClient().delete_tag(record.run_id, ledger.PREVIOUS)
    assert faults() == []
    last = records()[0]
    ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "fri"))
    assert records()[0].previous == f"{last.run_id} {last.sha256}"
    assert faults() == []
    MlflowClient().set_tag(last.run_id, "ledger.reason", "another")
    [fault] = faults()
    assert f"record {last.run_id} was changed" in fault


def test_a_move_that_was_interrupted_is_no_fault_before_and_after_its_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", crash)
        with pytest.raises(ConnectionError):
            ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "fri"))
    assert faults() == []
    ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "fri"))
    assert faults() == []
    assert len(records()) == 5


def test_a_registered_model_that_was_deleted_has_no_alias_to_compare() -> None:
    MlflowClient().delete_registered_model(NAME)
    assert faults() == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda run_id: MlflowClient().delete_tag(run_id, "ledger.reason"),
        lambda run_id: MlflowClient().set_tag(run_id, "ledger.kind", "party"),
        lambda run_id: MlflowClient().set_tag(run_id, "ledger.to_version", "two"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(harm: Callable[[str], None]) -> None:
    run_id = records()[1].run_id
    harm(run_id)
    with pytest.raises(ChangedError, match=f"record {run_id} of the ledger cannot be read"):
        records()


def named(record: Record) -> str:
    return f"{record.entry.kind} {record.run_id} of {record.at:%Y-%m-%d %H:%M}"

"""A ledger of more records than MLflow puts on a page: every question is answered right at both of its ends."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from benchmarks.old_installation import Writer, add_records, add_versions, chain_records
from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackRequest
from tasks.contract.recipe import Hyperparameters
from tasks.records import ledger, ledger_chain, paging, registry, tracking, tuned_sets
from tasks.records.ledger import Entry, Kind
from tasks.records.tuned_sets import TunedSet
from tasks.serving import onnx_export
from tasks.settings import Settings
from tasks.stages import rollback
from tests.tasks.records.entries import NAME, entry

OTHER = "cars"
START = 1_700_000_000_000  # milliseconds since 1970
MANY = 1005  # more than a page


def past() -> Iterator[Entry]:
    """Old moves, then a thousand refusals by the champion of then, version 2, and as many promotions of others."""
    yield entry(Kind.PROMOTION, 1, None, 1, evidence_run_id="of 1")
    yield entry(Kind.PROMOTION, 3, 1, 2, evidence_run_id="of 3")
    yield entry(Kind.ROLLBACK, 1, 3, 3, former_sha256="sha3", reason="sees cats everywhere")
    yield entry(Kind.PROMOTION, 2, 1, 4, evidence_run_id="of 2")
    for number in range(MANY):
        yield entry(Kind.REFUSAL, 10 + number, 2, 10 + number)
        yield entry(Kind.PROMOTION, number + 2, number + 1, 10 + number, registered_model=OTHER)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sqlalchemy.Engine]:
    tracking.connect(settings)
    found = sqlalchemy.create_engine(settings.tracking_uri)
    yield found
    found.dispose()


def write(engine: sqlalchemy.Engine, *entries: Entry, start: int = START) -> None:
    experiment_id = tracking.experiment(ledger.EXPERIMENT)
    with Writer(engine) as writer:
        add_records(writer, experiment_id, ((told, start + i) for i, told in enumerate(entries)))


@pytest.fixture
def long_past(engine: sqlalchemy.Engine) -> None:
    write(engine, *past())


@pytest.fixture
def three_versions(engine: sqlalchemy.Engine) -> None:
    runs = [MlflowClient().create_run(tracking.experiment("tests")).info.run_id for _ in range(3)]
    with Writer(engine) as writer:
        numbered = {number: (run_id, START, {registry.SHA256: f"sha{number}"}) for number, run_id in enumerate(runs, 1)}
        add_versions(writer, NAME, numbered)
    registry.set_alias(NAME, registry.CHAMPION, 2)


def test_what_was_rolled_back_before_a_thousand_records_stays_so(long_past: None, engine: sqlalchemy.Engine) -> None:
    told = ledger.rolled_back(NAME, "sha3")
    assert told is not None
    assert "sees cats everywhere" in told
    assert ledger.rolled_back(NAME, "sha1") is None
    assert ledger.rolled_back(OTHER, "sha3") is None
    write(engine, entry(Kind.ROLLBACK, 2, 9, 99, former_sha256="sha9"), start=START + 10 * MANY)
    assert ledger.rolled_back(NAME, "sha9") is not None


def test_the_champion_before_is_found_behind_a_thousand_refusals(long_past: None) -> None:
    assert ledger.champion_before(NAME, 2) == 1
    assert ledger.champion_before(NAME, 1) == 3  # the rollback
    assert ledger.champion_before(OTHER, MANY + 1) == MANY
    assert ledger.champion_before(OTHER, 2) == 1


def test_rollback_finds_where_to_go_back_to(
    long_past: None, three_versions: None, settings: Settings, task: TaskIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "ensure", lambda version: "it has its form")
    request = RollbackRequest(task=task, registered_model=NAME, reason="a test")
    with tracking.stage_run(request, "rollback", settings) as run:
        assert rollback.run(request, run, settings).version == 1
    champion = registry.by_alias(NAME)
    assert champion is not None
    assert int(champion.version) == 1
    assert ledger.rolled_back(NAME, "sha2") is not None


def test_all_candidates_are_counted(long_past: None, engine: sqlalchemy.Engine) -> None:
    assert ledger.comparisons(NAME, 2, "new") == MANY
    assert ledger.comparisons(NAME, 2, "sha10") == MANY - 1  # the oldest
    assert ledger.comparisons(NAME, 2, f"sha{MANY + 9}") == MANY - 1  # the newest
    write(engine, entry(Kind.REFUSAL, 5000, 2, 5000), start=START + 10 * MANY)
    assert ledger.comparisons(NAME, 2, "new") == MANY + 1


def test_the_evidence_of_the_first_and_the_last(long_past: None) -> None:
    assert [ledger.evidence_of(NAME, version) for version in (1, 2, 3)] == ["of 1", "of 2", "of 3"]


def test_the_newest_move_and_what_a_deploy_took_back(long_past: None, engine: sqlalchemy.Engine) -> None:
    newest = ledger.newest_move(NAME)
    assert newest is not None
    assert newest.entry.to_version == 2
    back = entry(Kind.FAILED_DEPLOY, 2, 2, 0, to_version=1, key="daily/0/deploy/-1")
    write(engine, back, start=START - 1000)  # the oldest of all
    told = ledger.failed_deploy(NAME, "daily/0/deploy/-1")
    assert told is not None
    assert told.entry == back
    assert ledger.failed_deploy(NAME, "daily/1/deploy/-1") is None


def test_all_of_it_is_told_newest_first(long_past: None) -> None:
    of_pets = [record.entry for record in ledger.history(NAME)]
    assert len(of_pets) == MANY + 4
    assert (of_pets[0].candidate_version, of_pets[-1].candidate_version) == (MANY + 9, 1)
    assert len(list(ledger.history())) == 2 * MANY + 4


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_records_of_the_same_millisecond_have_one_order(
    engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    for number in range(7):
        write(engine, entry(Kind.PROMOTION, number, None, number), start=START)
    order = [record.run_id for record in ledger.history(NAME)]
    monkeypatch.setattr(paging, "PAGE", page)
    assert [record.run_id for record in ledger.history(NAME)] == order
    newest = ledger.newest_move(NAME)
    assert newest is not None
    assert newest.run_id == order[0]


@pytest.mark.parametrize("first", ["rollback", "promotion"])
def test_of_a_rollback_and_a_promotion_of_the_same_millisecond_the_answer_is_that_of_the_history(
    engine: sqlalchemy.Engine, first: str
) -> None:
    both = [entry(Kind.ROLLBACK, 1, 2, 1, former_sha256="sha2"), entry(Kind.PROMOTION, 2, 1, 2)]
    for told in both if first == "rollback" else reversed(both):
        write(engine, told, start=START)
    newest = next(ledger.history(NAME)).entry
    assert (ledger.rolled_back(NAME, "sha2") is not None) == (newest.kind is Kind.ROLLBACK)


def test_an_interrupted_move_is_finished_behind_a_thousand_later_records(
    long_past: None, three_versions: None, settings: Settings
) -> None:
    begun = entry(Kind.PROMOTION, 3, 2, 7, key="daily/interrupted/register/-1")
    client = MlflowClient()
    run = client.create_run(tracking.experiment(ledger.EXPERIMENT), start_time=START - 5, tags=begun.tags)
    ledger.move_champion(begun)
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    champion = registry.by_alias(NAME)
    assert champion is not None
    assert int(champion.version) == 3
    assert len([r for r in ledger.history(NAME) if r.entry.key == begun.key]) == 1


def test_a_record_without_the_digest_of_the_champion_before_is_read(
    engine: sqlalchemy.Engine, settings: Settings
) -> None:
    """As a release wrote it whose versions had no digest yet."""
    old = replace(entry(Kind.ROLLBACK, 1, 2, 1), former_sha256=None)
    write(engine, old)
    with closing(sqlite3.connect(Path(settings.tracking_uri.removeprefix("sqlite:///")))) as database:
        assert not database.execute("SELECT * FROM tags WHERE key = 'ledger.former_sha256'").fetchall()
    assert next(ledger.history(NAME)).entry == old
    assert ledger.rolled_back(NAME, "sha2") is None
    assert ledger.champion_before(NAME, 1) == 2


def test_a_tuned_set_is_found_behind_a_thousand_promotions_without_one(engine: sqlalchemy.Engine) -> None:
    client, experiment_id = MlflowClient(), tracking.experiment("tests")
    tuned = TunedSet(client.create_run(experiment_id).info.run_id, "digits", "fast_cnn", Hyperparameters())
    tuned_sets.keep(tuned)
    another = TunedSet(client.create_run(experiment_id).info.run_id, "digits", "resnet18", Hyperparameters())
    tuned_sets.keep(another)
    run_id = client.create_run(experiment_id).info.run_id
    tags = {1: {tuned_sets.TUNE_RUN: tuned.run_id}, MANY: {tuned_sets.TUNE_RUN: another.run_id}}
    with Writer(engine) as writer:
        add_versions(writer, NAME, {n: (run_id, START, tags.get(n, {})) for n in range(1, MANY + 1)})
    shas = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(MANY)]
    promoted = (entry(Kind.PROMOTION, n + 1, n or None, n, candidate_sha256=sha) for n, sha in enumerate(shas))
    write(engine, *promoted)
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == tuned
    assert tuned_sets.newest_proven(NAME, "digits", "resnet18") == another
    assert tuned_sets.newest_proven(NAME, "cifar10", "fast_cnn") is None


def test_the_chain_is_checked_from_end_to_end(engine: sqlalchemy.Engine, long_past: None) -> None:
    chain_records(engine, tracking.experiment(ledger.EXPERIMENT))
    records = list(ledger.history())
    assert ledger_chain.faults(records) == []
    oldest = records[-1]
    MlflowClient().set_tag(oldest.run_id, "ledger.reason", "another")
    [fault] = ledger_chain.faults(list(ledger.history()))
    assert f"record {oldest.run_id} was changed" in fault

"""The service takes only a champion that a stage made."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from tasks.errors import ModelError
from tasks.records import artifact_digest, ledger, registry
from tasks.serving.model_reference import parse
from tasks.serving.promotion import require_promoted
from tasks.serving.resolution import resolve
from tests.tasks.serving.samples import MODEL, Service, Store, move
from tests.waiting import until


def required(store: Store) -> None:
    require_promoted(resolve(parse("champion", MODEL)))


def test_a_champion_with_a_record_is_served(store: Store) -> None:
    required(store)
    move(ledger.Kind.ROLLBACK, 1, 2)
    required(store)


def test_an_alias_that_was_moved_by_hand_is_refused(store: Store) -> None:
    registry.set_alias(MODEL, registry.CHAMPION, 2)
    with pytest.raises(ModelError, match=r"without a record in the ledger; .*make rollback VERSION=2 REASON"):
        required(store)


def test_so_is_one_that_was_champion_before(store: Store) -> None:
    move(ledger.Kind.PROMOTION, 1, 2)
    registry.set_alias(MODEL, registry.CHAMPION, 1)
    with pytest.raises(ModelError, match="without a record"):
        required(store)


def test_a_version_without_a_digest_is_refused(store: Store) -> None:
    version = registry.by_number(MODEL, 1)
    other = registry.create_version(MODEL, str(version.source), store.run_ids[0], {}, "")
    move(ledger.Kind.PROMOTION, 1, int(other.version))
    with pytest.raises(ModelError, match=rf"no digest of its files \(tag '{artifact_digest.TAG}'\)"):
        required(store)


def test_while_a_move_is_not_finished_both_its_versions_are_served(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", crash)
        with pytest.raises(ConnectionError):
            move(ledger.Kind.PROMOTION, 1, 2)
    required(store)
    registry.set_alias(MODEL, registry.CHAMPION, 2)
    required(store)
    store.promote(1)


def test_without_a_ledger_nothing_is_created(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "EXPERIMENT", "never-written")
    with pytest.raises(ModelError, match="without a record"):
        required(store)
    assert MlflowClient().get_experiment_by_name("never-written") is None


def test_the_service_keeps_the_old_model_and_says_so(service: Service, store: Store) -> None:
    registry.set_alias(MODEL, registry.CHAMPION, 2)
    until(lambda: "without a record in the ledger" in str(service.info()["problem"]))
    assert service.info()["model_version"] == 1
    move(ledger.Kind.ROLLBACK, 1, 2)  # as `make rollback VERSION=2` does
    assert service.post("refresh").ok
    until(lambda: service.info()["model_version"] == 2)
    assert service.info()["problem"] is None
    store.promote(1)

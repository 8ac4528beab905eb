from __future__ import annotations

from itertools import islice

import pytest

from tasks.records import ledger, registry
from tasks.records.ledger import Kind
from tasks.settings import Settings
from tests.tasks.records.entries import NAME, entry, make_versions


@pytest.fixture(autouse=True)
def versions(settings: Settings) -> None:
    """Three versions, no alias."""
    make_versions(settings, 3)


def refuse(version: int, before: int, day: str) -> None:
    with ledger.recorded(entry(Kind.REFUSAL, version, before, day)):
        pass


def champion() -> int | None:
    found = registry.by_alias(NAME)
    return int(found.version) if found else None


def kinds() -> list[str]:
    return [str(record.entry.kind) for record in ledger.history(NAME)]


def test_a_move_is_made_and_told() -> None:
    ledger.move_champion(entry(Kind.PROMOTION, 1, None))
    assert champion() == 1
    [record] = ledger.history(NAME)
    assert record.entry == entry(Kind.PROMOTION, 1, None)
    assert record.finished
    assert list(ledger.history("others")) == []
    assert len(list(ledger.history())) == 1


def test_newest_first() -> None:
    ledger.move_champion(entry(Kind.PROMOTION, 1, None, "mon"))
    refuse(2, 1, "tue")
    ledger.move_champion(entry(Kind.PROMOTION, 3, 1, "wed"))
    assert kinds() == ["promotion", "refusal", "promotion"]
    assert [r.entry.candidate_version for r in islice(ledger.history(NAME), 2)] == [3, 2]


def test_a_retry_finishes_the_record_that_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", crash)
        with pytest.raises(ConnectionError):
            ledger.move_champion(entry(Kind.PROMOTION, 1, None))
    assert [record.finished for record in ledger.history(NAME)] == [False]
    assert champion() is None
    for _ in range(2):
        ledger.move_champion(entry(Kind.PROMOTION, 1, None))
    assert [record.finished for record in ledger.history(NAME)] == [True]
    assert champion() == 1


def test_what_is_done_again_after_others_moved_is_told_again() -> None:
    for _ in range(2):
        ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "mon"))
        ledger.move_champion(entry(Kind.ROLLBACK, 1, 2, "tue"))
    assert kinds() == ["rollback", "promotion"] * 2


def test_an_alias_can_be_taken_away() -> None:
    ledger.move_champion(entry(Kind.PROMOTION, 1, None))
    ledger.move_champion(entry(Kind.FAILED_DEPLOY, 1, 1, "mon", to_version=None))
    assert champion() is None
    assert next(ledger.history(NAME)).entry.to_version is None


def test_a_champion_counts_the_candidates_it_met() -> None:
    ledger.move_champion(entry(Kind.PROMOTION, 1, None))
    assert ledger.comparisons(NAME, 1, "sha2") == 0
    refuse(2, 1, "tue")
    assert ledger.comparisons(NAME, 1, "sha2") == 0  # the same weights again are the same candidate
    assert ledger.comparisons(NAME, 1, "sha3") == 1
    refuse(2, 1, "wed")
    assert ledger.comparisons(NAME, 1, "sha3") == 1
    ledger.move_champion(entry(Kind.PROMOTION, 3, 1, "thu"))
    assert ledger.comparisons(NAME, 1, "new") == 2
    assert ledger.comparisons(NAME, 3, "new") == 0


def test_weights_that_were_rolled_back_stay_so_until_someone_takes_them_again() -> None:
    ledger.move_champion(entry(Kind.PROMOTION, 1, None, "mon"))
    ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "tue"))
    assert ledger.rolled_back(NAME, "sha2") is None
    ledger.move_champion(entry(Kind.ROLLBACK, 1, 2, "wed", former_sha256="sha2", reason="sees cats everywhere"))
    told = ledger.rolled_back(NAME, "sha2")
    assert told is not None
    assert "by ann" in told
    assert "sees cats everywhere" in told
    assert ledger.rolled_back(NAME, "sha1") is None
    ledger.move_champion(entry(Kind.ROLLBACK, 2, 1, "thu", former_sha256="sha1"))
    assert ledger.rolled_back(NAME, "sha2") is None


def test_the_champion_before() -> None:
    assert ledger.champion_before(NAME, 1) is None
    ledger.move_champion(entry(Kind.PROMOTION, 1, None, "mon"))
    ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "tue"))
    refuse(3, 2, "wed")
    assert ledger.champion_before(NAME, 2) == 1
    assert ledger.champion_before(NAME, 1) is None
    assert ledger.champion_before(NAME, 3) is None


def test_the_evidence_of_a_champion_is_that_of_its_last_promotion() -> None:
    refuse(1, 2, "mon")
    assert ledger.evidence_of(NAME, 1) is None
    for day in ("tue", "wed"):
        ledger.move_champion(entry(Kind.PROMOTION, 1, None, day, evidence_run_id=f"of {day}"))
    ledger.move_champion(entry(Kind.PROMOTION, 2, 1, "thu"))
    assert ledger.evidence_of(NAME, 1) == "of wed"


def test_a_version_without_a_digest_has_one_record_for_all_tries() -> None:
    for _ in range(2):
        ledger.move_champion(entry(Kind.PROMOTION, 1, None, candidate_sha256=""))
    assert len(list(ledger.history(NAME))) == 1

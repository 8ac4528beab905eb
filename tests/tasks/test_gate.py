from __future__ import annotations

import pytest

from tasks.gate import GatePolicy, Scores, decide

POLICY = GatePolicy(min_accuracy=0.8, min_macro_f1=0.7)


def scores(accuracy: float, macro_f1: float = 0.9) -> Scores:
    return Scores(accuracy=accuracy, macro_f1=macro_f1)


@pytest.mark.parametrize(
    ("candidate", "champion", "promote"),
    [
        (scores(0.9), None, True),
        (scores(0.8, 0.7), None, True),  # on the floor is not under it
        (scores(0.79), None, False),
        (scores(0.9, 0.69), None, False),
        (scores(0.9), scores(0.9), True),  # equal is not worse
        (scores(0.9), scores(0.89), True),
        (scores(0.9), scores(0.91), False),
        (scores(0.7), scores(0.6), False),  # better than the champion, but under the floor
    ],
)
def test_verdict(candidate: Scores, champion: Scores | None, promote: bool) -> None:
    verdict = decide(candidate, champion, 3 if champion else None, POLICY)
    assert verdict.promote is promote
    assert verdict.promote == all(check.passed for check in verdict.checks)


def test_reason_names_every_failed_check_with_its_numbers() -> None:
    verdict = decide(scores(0.75, 0.6), scores(0.9), 7, POLICY)
    for words in ("0.7500", "0.8000", "0.6000", "0.7000", "0.9000", "champion version 7"):
        assert words in verdict.reason
    assert verdict.reason.startswith("refused")


def test_no_champion_means_floors_only() -> None:
    verdict = decide(scores(0.9), None, None, POLICY)
    assert [check.name for check in verdict.checks] == ["accuracy floor", "macro F1 floor"]
    assert "no champion yet" in verdict.reason


def test_missing_evidence_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="go together"):
        decide(scores(0.9), scores(0.9), None, POLICY)
    with pytest.raises(ValueError, match="accuracy"):
        scores(float("nan"))

"""Evidence judged again by a stricter policy than evaluate's: what was not compared strictly enough is no proof."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.decision import decide
from tasks.gate.evidence import Evidence
from tasks.gate.floors import decide_by
from tests.tasks.gate.test_decision import champion, comparison, evidence

LEVEL = "level of the comparison"


def failed(evidence: Evidence, **limits: Any) -> list[str]:
    verdict = decide_by(evidence, GatePolicy(**limits))
    assert verdict.promote is (all(check.passed for check in verdict.checks) and not verdict.is_champion)
    return [check.name for check in verdict.checks if not check.passed]


def test_a_candidate_that_meets_the_stricter_policy_too_is_promoted_as_before() -> None:
    beaten = evidence(champion=champion())
    assert decide_by(beaten, GatePolicy(min_accuracy=0.9)) == decide(beaten, GatePolicy(min_accuracy=0.9))
    assert failed(beaten, min_accuracy=0.9) == []


@pytest.mark.parametrize(
    ("limits", "row"),
    [
        ({"min_accuracy": 0.95}, "accuracy"),
        ({"max_latency_ms": 1}, "latency p95 budget"),
        ({"slice_columns": "camera"}, "slices by camera"),
        ({"min_gain": 0.5}, "gain"),
        # Compared at 0.025, where 0.01 / 2 is allowed for the first candidate. Its p-value of 0.001 would do, but the
        # interval of the gap was drawn at 0.025.
        ({"false_promotion_rate": 0.01}, LEVEL),
    ],
)
def test_each_stricter_limit_refuses(limits: dict[str, Any], row: str) -> None:
    assert failed(evidence(champion=champion()), **limits) == [row]


def test_a_comparison_at_the_level_of_each_gate_alone_is_too_lax_for_all_candidates_together() -> None:
    second = comparison(level=0.05).model_copy(update={"look": 2})
    assert failed(evidence(champion=champion(comparison=second)), rate_holds_for="gate") == []
    assert failed(evidence(champion=champion(comparison=second))) == [LEVEL]


def test_a_comparison_that_does_not_count_is_not_asked_for_its_level() -> None:
    same = champion(same=True, comparison=comparison(level=0.4), scores=None, cost=None)
    assert failed(evidence(champion=same)) == []

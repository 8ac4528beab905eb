"""A compressed candidate: no worse than the model that it was made from, and worth it."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.gate.decision import decide
from tasks.gate.evidence import Compression, Cost
from tests.tasks.gate.test_decision import COST, POLICY, champion, comparison, evidence, failed, scores

BEFORE = Cost(p50_ms=3, p95_ms=4, memory_mb=60, size_mb=4)
EQUAL = comparison(gained=5, lost=6, p=0.7, low=-0.005)


def compression(**changes: Any) -> Compression:
    made = {"method": "int8", "images": 200, "version": 3, "scores": scores(), "cost": BEFORE, "comparison": EQUAL}
    return Compression(**(made | changes))


def test_of_the_champion_no_gain_in_accuracy_is_asked() -> None:
    found = evidence(compression=compression(), champion=champion(comparison=EQUAL, cost=BEFORE))
    assert failed(found) == []
    names = [check.name for check in decide(found, POLICY).checks]
    assert "not worse than before" in names
    assert not {"gain", "proof of a gain", "not worse"} & set(names)


def test_beside_another_champion_the_usual_gain_is_asked_too() -> None:
    found = evidence(compression=compression(version=None), champion=champion(comparison=EQUAL))
    assert failed(found) == ["gain", "proof of a gain"]
    assert failed(evidence(compression=compression(version=None), champion=champion())) == []


def test_without_a_champion_it_must_pay_all_the_same() -> None:
    assert failed(evidence(compression=compression())) == []
    assert failed(evidence(compression=compression(cost=COST))) == ["compression pays"]


@pytest.mark.parametrize(
    ("changes", "row", "why"),
    [
        (
            {"comparison": comparison(gained=1, lost=30, low=-0.04)},
            "not worse than before",
            "lower end of the gap's interval (-0.0400 to +0.0500) -0.0400 is under -0.0100, the margin, "
            "against version 3 before its compression",
        ),
        ({"comparison": None}, "not worse than before", "not compared with version 3 before its compression"),
        ({"cost": None}, "compression pays", "latency and size were not measured before and after the compression"),
        (
            {"cost": BEFORE.model_copy(update={"p50_ms": 1.9})},
            "compression pays",
            "median of one answer 1.9 ms before its compression, 2 ms now: 0.95 times as fast, not the required 1.2",
        ),
    ],
)
def test_each_rule_refuses_alone_and_says_its_figures(changes: dict[str, Any], row: str, why: str) -> None:
    found = evidence(compression=compression(**changes))
    assert failed(found) == [row]
    assert why in decide(found, POLICY).reason


def test_size_counts_where_it_is_asked_for() -> None:
    slower = evidence(compression=compression(cost=BEFORE.model_copy(update={"p50_ms": 1.0})))
    assert failed(slower) == ["compression pays"]
    by_size = POLICY.model_copy(update={"compression_gain": "size"})
    assert failed(slower, by_size) == []
    assert failed(slower, by_size.model_copy(update={"min_compression_gain": 4.1})) == ["compression pays"]


def test_a_model_as_trained_is_compared_with_the_cost_of_the_champion_as_trained() -> None:
    compressed = champion(cost=Cost(p50_ms=0.5, p95_ms=0.6, memory_mb=20, size_mb=0.2))
    assert failed(evidence(champion=compressed)) == ["latency p50", "latency p95", "memory", "size"]
    like = compressed.model_copy(update={"uncompressed_cost": Cost(p50_ms=2, p95_ms=3, memory_mb=50, size_mb=1)})
    assert failed(evidence(champion=like)) == []
    assert "of champion version 3" not in decide(evidence(champion=like), POLICY).text()
    assert "times champion version 3 before its compression" in decide(evidence(champion=like), POLICY).text()
    # Another compressed one is compared with the champion as it is.
    assert "latency p50" in failed(evidence(champion=like, compression=compression(version=None)))

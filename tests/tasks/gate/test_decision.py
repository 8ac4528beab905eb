from __future__ import annotations

from typing import Any

import pytest

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Comparison, Cost, Evidence, Loading, Scores, Slice

POLICY = GatePolicy(min_accuracy=0.8, min_macro_f1=0.7)
COST = Cost(p50_ms=2, p95_ms=3, memory_mb=50, size_mb=1)


def scores(accuracy: float = 0.9, macro_f1: float = 0.9, calibration_error: float = 0.02) -> Scores:
    return Scores(accuracy=accuracy, macro_f1=macro_f1, calibration_error=calibration_error)


def comparison(
    gained: int = 30, lost: int = 10, p: float = 0.001, low: float = 0.01, level: float = 0.025
) -> Comparison:
    return Comparison(images=1000, gained=gained, lost=lost, p_value=p, low=low, high=0.05, level=level, look=1)


def evidence(**changes: Any) -> Evidence:
    """Evidence of a sound candidate without a champion, but for what is changed."""
    sound = {
        "loading": Loading(works=True, note="loads"),
        "scores": scores(),
        "cost": COST,
        "slices": (Slice(column="class", value="cat", images=10, accuracy=0.9),),
    }
    return Evidence(**(sound | changes))


def champion(**changes: Any) -> Champion:
    return Champion(**({"version": 3, "scores": scores(), "cost": COST, "comparison": comparison()} | changes))


def failed(evidence: Evidence, policy: GatePolicy = POLICY) -> list[str]:
    verdict = decide(evidence, policy)
    names = [check.name for check in verdict.checks if not check.passed]
    assert verdict.promote is (not names)
    return names


def test_without_a_champion_floors_and_budgets_are_all() -> None:
    verdict = decide(evidence(), POLICY)
    assert [check.name for check in verdict.checks] == [
        "loads", "accuracy", "macro F1", "calibration error", "class recall"
    ]  # fmt: skip
    assert verdict.promote
    assert "no champion yet" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "limits", "row"),
    [
        ({"loading": Loading(works=False, note="pickle inside")}, {}, "loads"),
        ({"scores": scores(accuracy=0.79)}, {}, "accuracy"),
        ({"scores": scores(macro_f1=0.69)}, {}, "macro F1"),
        ({"scores": scores(calibration_error=0.3)}, {}, "calibration error"),
        ({}, {"min_class_recall": 0.91}, "class recall"),
        ({}, {"max_latency_ms": 2.9}, "latency p95 budget"),
        ({}, {"max_model_mb": 0.9}, "size budget"),
        ({}, {"max_memory_mb": 49}, "memory budget"),
        ({"rolled_back": "rolled back by ann"}, {}, "not rolled back"),
    ],
)
def test_each_floor_and_budget_refuses_alone(changes: dict[str, Any], limits: dict[str, Any], row: str) -> None:
    assert failed(evidence(**changes), POLICY.model_copy(update=limits)) == [row]


def test_on_the_limit_is_within_it() -> None:
    exact = {"max_latency_ms": 3.0, "max_model_mb": 1.0, "max_memory_mb": 50.0, "min_class_recall": 0.9}
    assert failed(evidence(scores=scores(0.8, 0.7, 0.25)), POLICY.model_copy(update=exact)) == []


@pytest.mark.parametrize(
    ("missing", "row"),
    [("loading", "loads"), ("scores", "accuracy"), ("cost", "cost"), ("slices", "class recall")],
)
def test_what_was_not_measured_counts_against_the_candidate(missing: str, row: str) -> None:
    assert failed(evidence(**{missing: () if missing == "slices" else None})) == [row]


def test_what_was_not_measured_of_the_champion_counts_too() -> None:
    assert failed(evidence(champion=champion(comparison=None))) == ["gain"]
    assert failed(evidence(champion=champion(cost=None))) == ["cost"]


def test_a_class_without_test_images_is_missing_evidence() -> None:
    empty = Slice(column="class", value="dog", images=0, accuracy=None)
    verdict = decide(evidence(slices=(*evidence().slices, empty)), POLICY)
    assert not verdict.promote
    assert "no test image has class dog" in verdict.reason


def test_a_column_that_is_asked_for_must_be_there() -> None:
    policy = POLICY.model_copy(update={"slice_columns": "camera", "min_slice_accuracy": 0.5})
    assert failed(evidence(), policy) == ["slices by camera"]
    parts = [Slice(column="camera", value=v, images=5, accuracy=a) for v, a in (("day", 0.9), ("night", 0.4))]
    verdict = decide(evidence(slices=(*evidence().slices, *parts)), policy)
    assert "accuracy of the worst camera, 'night', 0.4000 is under 0.5000" in verdict.reason


def test_a_proven_gain_takes_over() -> None:
    verdict = decide(evidence(champion=champion()), POLICY)
    assert verdict.promote
    assert verdict.champion_version == 3
    assert "champion was version 3" in verdict.reason


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        (comparison(gained=12, lost=10, p=0.42, low=-0.005), ["proof of a gain"]),  # may be chance
        (comparison(gained=10, lost=10, p=1, low=-0.008), ["proof of a gain"]),  # equal
        (comparison(gained=10, lost=30, p=1, low=-0.035), ["gain", "proof of a gain", "not worse"]),  # worse
        (comparison(p=0.03, level=0.025), ["proof of a gain"]),  # the level granted counts, not 0.05
    ],
)
def test_without_proof_the_champion_stays(found: Comparison, rows: list[str]) -> None:
    assert failed(evidence(champion=champion(comparison=found))) == rows


def test_not_worse_is_enough_where_that_is_asked() -> None:
    policy = POLICY.model_copy(update={"proof": "not_worse"})
    equal = comparison(gained=9, lost=10, p=1, low=-0.0099)
    assert failed(evidence(champion=champion(comparison=equal)), policy) == []
    unsure = comparison(gained=9, lost=10, p=1, low=-0.0101)
    assert failed(evidence(champion=champion(comparison=unsure)), policy) == ["not worse"]


def test_a_gain_may_have_to_be_of_some_size() -> None:
    assert failed(evidence(champion=champion()), POLICY.model_copy(update={"min_gain": 0.03})) == ["gain"]


@pytest.mark.parametrize(
    ("cost", "rows"),
    [
        ({"p50_ms": 4.1, "p95_ms": 6.1}, ["latency p50", "latency p95"]),
        ({"memory_mb": 101}, ["memory"]),
        ({"size_mb": 4.1}, ["size"]),
        ({"p50_ms": 4, "p95_ms": 6, "memory_mb": 100, "size_mb": 4}, []),
    ],
)
def test_a_gain_may_not_cost_too_much(cost: dict[str, float], rows: list[str]) -> None:
    assert failed(evidence(cost=COST.model_copy(update=cost), champion=champion())) == rows


def test_the_champion_itself_is_neither_promoted_nor_refused() -> None:
    verdict = decide(evidence(champion=Champion(version=3, same=True)), POLICY)
    assert (verdict.promote, verdict.is_champion) == (False, True)
    assert verdict.reason == "unchanged: these weights are the champion already, version 3"


def test_the_champion_itself_under_a_floor_is_told_so() -> None:
    verdict = decide(evidence(scores=scores(0.5), champion=Champion(version=3, same=True)), POLICY)
    assert verdict.reason.startswith("refused: test accuracy 0.5000 is under 0.8000")


def test_the_table_has_a_row_for_every_check() -> None:
    verdict = decide(evidence(champion=champion(), loading=Loading(works=False, note="a | b")), POLICY)
    assert len(verdict.text().splitlines()) == len(verdict.checks) + 1
    lines = verdict.markdown().splitlines()
    assert len(lines) == len(verdict.checks) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}


def test_slices_are_told_apart() -> None:
    part = Slice(column="class", value="cat", images=10, accuracy=0.9)
    with pytest.raises(ValueError, match="twice"):
        evidence(slices=(part, part))


def test_numbers_that_are_none_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="accuracy"):
        scores(float("nan"))

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tasks.contract.gate_policy import STRICTER, GatePolicy, strictest
from tasks.contract.promotion import EvaluateRequest
from tasks.contract.stages import parameters


def test_the_rate_is_never_overspent_however_many_candidates_come() -> None:
    policy = GatePolicy(false_promotion_rate=0.05)
    spent = sum(policy.level(look) for look in range(1, 100_000))
    assert 0.0499 < spent <= 0.05
    assert policy.level(1) == 0.025


def test_each_gate_alone_has_the_whole_rate() -> None:
    policy = GatePolicy(false_promotion_rate=0.05, rate_holds_for="gate")
    assert {policy.level(look) for look in (1, 2, 1000)} == {0.05}


@pytest.mark.parametrize("number", [0, -1])
def test_a_candidate_before_the_first_is_a_bug(number: int) -> None:
    with pytest.raises(ValueError, match=f"number={number}"):
        GatePolicy().level(number)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_accuracy", 1.1),
        ("false_promotion_rate", 0),
        ("false_promotion_rate", 0.5),
        ("max_slowdown", 0.9),
        ("max_latency_ms", 0),
        ("min_gain", -0.1),
        ("proof", "none"),
        ("slice_columns", "a,,b"),
        ("max_growth", float("inf")),
    ],
)
def test_limits_that_make_no_sense_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        GatePolicy.model_validate({field: value})


def test_columns_are_read_from_one_line() -> None:
    assert GatePolicy(slice_columns=" camera, light ").required_columns == ("camera", "light")
    assert GatePolicy().required_columns == ()


def test_every_limit_is_a_param_of_the_form() -> None:
    assert set(GatePolicy.model_fields) <= set(parameters(EvaluateRequest))


def test_every_limit_says_which_of_its_values_is_stricter() -> None:
    assert set(STRICTER) == set(GatePolicy.model_fields)
    for name, field in GatePolicy.model_fields.items():
        if len(STRICTER[name]) > 1:
            assert set(STRICTER[name]) == set(get_args(field.annotation))


@pytest.mark.parametrize(
    ("name", "values", "strict"),
    [
        ("min_accuracy", (0.3, 0.9), 0.9),
        ("max_calibration_error", (0.25, 0.1), 0.1),
        ("max_latency_ms", (None, 20.0), 20.0),
        ("max_latency_ms", (10.0, 20.0), 10.0),
        ("proof", ("not_worse", "better"), "better"),
        ("rate_holds_for", ("gate", "champion"), "champion"),
        ("slice_columns", (None, "camera"), "camera"),
        ("max_latency_ms", (None, None), None),
    ],
)
def test_the_stricter_of_two_limits_is_the_same_in_either_order(
    name: str, values: tuple[Any, Any], strict: object
) -> None:
    assert {strictest(name, *pair) for pair in itertools.permutations(values)} == {strict}


def test_columns_of_both_are_asked_for_and_a_pinned_choice_is_the_floors() -> None:
    assert strictest("slice_columns", " camera, light", "light,site") == "camera,light,site"
    assert strictest("slice_columns", "camera ,light", "light") == "camera ,light"
    assert strictest("compression_gain", "latency", "size") == "size"

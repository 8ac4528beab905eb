"""The administrators' rules for a registered model: which hold, and what may be asked for beside them."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.contract.gate_policy import GatePolicy
from tasks.contract.policies import ApprovalRule, Policies, Rules
from tasks.errors import RequestError, SettingsError


def policies(**models: Any) -> Policies:
    return Policies.model_validate({"source": "policies.yaml", "models": models})


def rules(name: str = "pets", **models: Any) -> Rules:
    found = policies(**models).rules_for(name)
    assert found is not None
    return found


def test_a_model_that_no_pattern_names_has_no_rules() -> None:
    some = policies(pets={"gate": {"min_accuracy": 0.9}}, **{"x-*": {"gate": {"min_accuracy": 0.5}}})
    assert some.rules_for("pet") is None
    assert some.rules_for("petsx") is None
    assert some.rules_for("x-ray") is not None


@pytest.mark.parametrize("turned", [False, True])
def test_all_patterns_that_match_hold_whatever_their_order(turned: bool) -> None:
    models = {
        "*": {"gate": {"min_accuracy": 0.5, "max_latency_ms": 20.0, "proof": "better"}},
        "pets": {"gate": {"min_accuracy": 0.9, "proof": "not_worse"}},
        "dogs": {"gate": {"min_accuracy": 0.99}},
    }
    found = rules(**(dict(reversed(models.items())) if turned else models))
    assert dict(found.floors) == {"min_accuracy": 0.9, "max_latency_ms": 20.0, "proof": "better"}


def test_two_rules_that_cannot_hold_together_are_named() -> None:
    some = policies(pets={"gate": {"compression_gain": "size"}}, **{"*": {"gate": {"compression_gain": "latency"}}})
    with pytest.raises(SettingsError, match=r"policies.yaml \(pets, \*\): compression_gain is 'size' in one rule"):
        some.rules_for("pets")
    some = policies(pets={"approval": {"by": ["ann"]}}, **{"*": {"approval": {"by": ["bob"]}}})
    with pytest.raises(SettingsError, match="nobody may approve"):
        some.rules_for("pets")


@pytest.mark.parametrize(
    ("asked", "floor", "meets"),
    [
        ({}, {"min_accuracy": 0.9}, 0.9),
        ({"min_accuracy": 0.95}, {"min_accuracy": 0.9}, 0.95),
        ({"min_accuracy": 0.9}, {"min_accuracy": 0.9}, 0.9),
        ({}, {"min_accuracy": 0.1}, 0.3),
        ({"max_latency_ms": 5.0}, {"max_latency_ms": 10.0}, 5.0),
        ({}, {"max_latency_ms": 10.0}, 10.0),
        ({}, {"compression_gain": "size"}, "size"),
        ({"slice_columns": "a,b"}, {"slice_columns": "b"}, "a,b"),
    ],
)
def test_a_run_may_ask_for_more_and_what_it_leaves_open_is_the_floor(
    asked: dict[str, Any], floor: dict[str, Any], meets: object
) -> None:
    found, policy = rules(pets={"gate": floor}), GatePolicy(**asked)
    found.require(policy)
    (name,) = floor
    assert getattr(found.applied(policy), name) == meets


@pytest.mark.parametrize(
    ("asked", "floor"),
    [
        ({"min_accuracy": 0.8}, {"min_accuracy": 0.9}),
        ({"min_accuracy": 0.0}, {"min_accuracy": 0.9}),
        ({"max_calibration_error": 0.5}, {"max_calibration_error": 0.25}),
        ({"proof": "not_worse"}, {"proof": "better"}),
        ({"rate_holds_for": "gate"}, {"rate_holds_for": "champion"}),
        ({"false_promotion_rate": 0.1}, {"false_promotion_rate": 0.05}),
        ({"max_latency_ms": 50.0}, {"max_latency_ms": 20.0}),
        ({"slice_columns": "light"}, {"slice_columns": "camera"}),
        ({"compression_gain": "size"}, {"compression_gain": "latency"}),
    ],
)
def test_a_run_that_asks_for_less_is_told_the_param_its_value_the_floor_and_the_file(
    asked: dict[str, Any], floor: dict[str, Any]
) -> None:
    found, policy = rules(pets={"gate": floor}), GatePolicy(**asked)
    ((name, value),) = asked.items()
    with pytest.raises(RequestError) as refused:
        found.require(policy)
    for part in (f"{name}={value!r}", f"{name}={floor[name]!r}", "'pets'", "policies.yaml (pets)"):
        assert part in str(refused.value)
    # Where it is applied nevertheless, as in register, the floor holds.
    assert getattr(found.applied(policy), name) != value


def test_only_what_the_file_gives_is_a_floor() -> None:
    lax = GatePolicy(min_macro_f1=0.0, max_slowdown=9.0, min_accuracy=0.95)
    found = rules(pets={"gate": {"min_accuracy": 0.9}})
    found.require(lax)
    assert found.applied(lax) == lax


@pytest.mark.parametrize(
    ("by", "approver", "started_by", "objection"),
    [
        (None, "bob", "ann", ""),
        (None, "bob", None, ""),
        (None, "ann", "ann", "ann started this run"),
        (("bob", "carl"), "bob", "ann", ""),
        (("bob", "carl"), "bob", "bob", "bob started this run"),
        (("bob", "carl"), "dora", "ann", "dora may not approve it; bob or carl may"),
        (("bob", "carl"), "Bob", None, "Bob may not approve it"),
    ],
)
def test_who_may_approve(by: Any, approver: str, started_by: str | None, objection: str) -> None:
    said = ApprovalRule(by=by).objection(approver, started_by)
    assert said.startswith(objection)
    assert bool(said) is bool(objection)


def test_approvals_of_several_rules_hold_together() -> None:
    models = {
        "*": {"approval": {"required": False, "by": ["ann", "bob", "carl"]}},
        "pets": {"approval": {"by": ["carl", "ann", "dora"]}},
    }
    assert rules(**models).approval == ApprovalRule(required=True, by=("ann", "carl"))
    assert rules(name="dogs", **models).approval_required is False


def test_the_rules_in_words() -> None:
    gate = {"min_accuracy": 0.9, "proof": "better"}
    found = rules(pets={"gate": gate, "approval": {"by": ["ann", "bob"]}})
    assert found.text == "policies.yaml (pets): min_accuracy 0.9, proof better, approval by ann or bob"
    many = ApprovalRule(required=False, by=tuple("abcdefg"))
    assert many.text == "if asked, approval by a or b or c or d or e or 2 others"

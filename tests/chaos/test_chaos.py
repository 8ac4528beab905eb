"""The program behind `make chaos`: what it calls a difference, what it masks, what it draws as a sample."""

from __future__ import annotations

from typing import Any

import pytest

from . import kills, state
from .kills import Fault, Outcome, sample
from .steps import STEPS, needed


def test_a_difference_is_lost_and_an_entry_too_many_is_doubled() -> None:
    end = {"run a | status": "FINISHED", "run a | metric loss@1": "0.5"}
    assert kills.compare(end, dict(end)) == ([], [], 0)
    assert kills.compare(end, end | {"run a | status": "FAILED"})[0] == ["run a | status: FINISHED is now FAILED"]
    assert kills.compare(end, {})[0][0] == "run a | status: FINISHED is now missing"
    assert kills.compare(end, end | {"run a (2) | status": "FINISHED"})[1] == ["run a (2) | status"]
    assert kills.compare(end, end | {"run a | metric loss@1 (1)": "0.5"})[1] == ["run a | metric loss@1 (1)"]


def test_what_a_retry_measures_again_is_a_step_more_and_no_double() -> None:
    measured = "run chaos/day1/prepare/-1 prepare | metric raw.seconds@1"
    assert kills.compare({}, {measured: "*"}) == ([], [], 0)
    for other in (measured.replace("prepare", "train"), measured.replace("raw.seconds", "rows"), f"{measured} (1)"):
        assert kills.compare({}, {other: "*"})[1] == [other]


def test_an_unfinished_model_that_nothing_refers_to_is_a_leftover() -> None:
    found = {"model of run a | status": "PENDING", "model of run a | name": "model"}
    assert kills.compare({}, found) == ([], [], 1)
    assert kills.compare({}, found | {"model of run a | status": "READY"})[1]


@pytest.mark.parametrize(
    ("key", "value", "masked"),
    [
        ("run r | tag pipeline.result", '{"seconds":1.25,"version":3}', '{*,"version":3}'),
        ("run r | metric epoch_seconds@1", "0.5", "*"),
        ("run r | metric train_loss@1", "0.5", "0.5"),
        # Digits after a point are no time, whatever they look like.
        ("run r | tag pipeline.result", '{"images_per_second":1017.1799012345678}', "{*}"),
        ("run r | metric train_loss@1", "0.1799012345678", "0.1799012345678"),
        ("run r | tag mlflow.log-model.history", '{"time": 1799012345678}', '{"time": *}'),
        ("run r | artifact trials.csv", "0,0.0034,1.02,run r/0 trial", "0,0.0034,*,run r/0 trial"),
        ("version m/1 | description", "made 2026-11-21 14:00 UTC", "made *"),
    ],
)
def test_only_what_is_measured_is_masked(key: str, value: str, masked: str) -> None:
    assert state._mask(key, value) == masked


def test_a_sample_is_of_all_steps_and_the_same_for_a_seed() -> None:
    faults = [Fault(step, f"s/f#{n}", "before", "SIGKILL") for step in "abc" for n in range(20)]
    chosen = sample(faults, 7, seed=3)
    assert chosen == sample(faults, 7, seed=3)
    assert {fault.step for fault in chosen} == set("abc")
    assert len(chosen) == len(set(chosen)) == 7
    assert sample(faults, 1000, seed=3) == faults


def test_a_step_brings_those_it_begins_after() -> None:
    names = [step.name for step in needed(["prepare"])]
    assert [name for name in names if name.startswith("prepare-")][-1] == names[-1] == "prepare-newer"
    assert {"train-day1", "register-day1"} <= set(names)
    assert needed([step.stage for step in STEPS]) == list(STEPS)


def test_a_fault_that_is_not_survived_says_so() -> None:
    fault = Fault("a", "s/f#1", "before", "SIGKILL")
    assert Outcome(fault).survived
    assert not Outcome(fault, wrong=("the point was not reached",)).survived


def test_the_last_call_of_a_function_that_is_called_by_time_is_not_tried() -> None:
    class Nowhere(kills.Pipeline):
        def __init__(self) -> None:
            names = [step.name for step in STEPS]
            self.points = {name: [] for name in names} | {"tune-week1": [f"tune/log_batch#{n}" for n in range(1, 4)]}

    assert {fault.point for fault in Nowhere().faults(["tune"])} == {"tune/log_batch#1", "tune/log_batch#2"}


def test_tags_in_a_result_are_compared_one_by_one() -> None:
    """A model's ID differs in every try, and so does the digest of what was measured."""

    def result(model: str, evidence: str, promote: str) -> dict[str, Any]:
        tags = {"pipeline.logged_model_uri": f"models:/m-{model * 32}", "pipeline.promote": promote}
        return {"run_id": model * 32, "tags": tags | {"pipeline.sha256.evidence.json": evidence}}

    expected = state.of_result(result("a", "1", "true"))
    assert state.of_result(result("b", "2", "true")) == expected
    other = state.of_result(result("b", "2", "false"))
    assert [name for name in other if other[name] != expected[name]] == ["result | tag pipeline.promote"]
    assert state.of_result({"run_id": "c" * 32, "tags": None}) == {"result | run_id": "ID"}

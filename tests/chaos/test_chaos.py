"""A sample of `make chaos`; all of it takes half an hour. docs/reliability.md has the figures of a whole run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from . import kills, state
from .kills import Fault, Outcome, sample
from .steps import STEPS, needed

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["prepare", "train", "evaluate", "register", "rollback"]  # deploy waits for a real service: make chaos


def test_a_sample_of_every_stage_is_survived() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--stage", *STAGES, "--sample", "12", "--seed", "1", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["all"][1:5] == ["12", "12", "0", "0"]
    assert {step.name for step in STEPS if step.stage in STAGES and step.only is None} <= set(rows)


def test_a_difference_is_lost_and_an_entry_too_many_is_doubled() -> None:
    end = {"run a | status": "FINISHED", "run a | metric loss@1": "0.5"}
    assert kills._compare(end, dict(end)) == ([], [], 0)
    assert kills._compare(end, end | {"run a | status": "FAILED"})[0] == ["run a | status: FINISHED is now FAILED"]
    assert kills._compare(end, {})[0][0] == "run a | status: FINISHED is now missing"
    assert kills._compare(end, end | {"run a (2) | status": "FINISHED"})[1] == ["run a (2) | status"]
    assert kills._compare(end, end | {"run a | metric loss@1 (1)": "0.5"})[1] == ["run a | metric loss@1 (1)"]


def test_what_a_retry_measures_again_is_a_step_more_and_no_double() -> None:
    measured = "run chaos/day1/prepare/-1 prepare | metric raw.seconds@1"
    assert kills._compare({}, {measured: "*"}) == ([], [], 0)
    for other in (measured.replace("prepare", "train"), measured.replace("raw.seconds", "rows"), f"{measured} (1)"):
        assert kills._compare({}, {other: "*"})[1] == [other]


def test_an_unfinished_model_that_nothing_refers_to_is_a_leftover() -> None:
    found = {"model of run a | status": "PENDING", "model of run a | name": "model"}
    assert kills._compare({}, found) == ([], [], 1)
    assert kills._compare({}, found | {"model of run a | status": "READY"})[1]


@pytest.mark.parametrize(
    ("key", "value", "masked"),
    [
        ("run r | tag pipeline.result", '{"seconds":1.25,"version":3}', '{*,"version":3}'),
        ("run r | metric epoch_seconds@1", "0.5", "*"),
        ("run r | metric train_loss@1", "0.5", "0.5"),
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
    assert [step.name for step in needed(["prepare"])][-1] == "prepare-day2"
    assert {"train-day1", "register-day1"} <= {step.name for step in needed(["prepare"])}
    assert needed([step.stage for step in STEPS]) == list(STEPS)


def test_a_fault_that_is_not_survived_says_so() -> None:
    fault = Fault("a", "s/f#1", "before", "SIGKILL")
    assert Outcome(fault).survived
    assert not Outcome(fault, wrong=("the point was not reached",)).survived

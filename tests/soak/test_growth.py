"""What `make soak` calls growth."""

from __future__ import annotations

import pytest

from .growth import LEFT, TOLD, Day, growths

LEAK = "open files: mlflow"
CONTAINERS = f"{LEFT}containers"
MEMORY = f"{TOLD}mlflow"


def days(count: int = 50, *, seconds: float = 40.0, more: float = 0.0, **counts: list[int]) -> list[Day]:
    """Runs whose time grows by `more` of itself from the first to the last."""
    return [
        Day(number, seconds * (1 + more * number / count), "", "success", {k: v[number] for k, v in counts.items()})
        for number in range(count)
    ]


def too_much(before: dict[str, int], found: list[Day]) -> list[str]:
    return [growth.name for growth in growths(before, found) if growth.too_much]


def test_what_stays_is_no_growth() -> None:
    counts = {LEAK: [100, *[140] * 49], CONTAINERS: [0] * 50}  # the first run opens what stays open
    assert too_much({LEAK: 60, CONTAINERS: 0}, days(**counts)) == []


def test_a_file_left_open_by_every_run_is_growth() -> None:
    assert too_much({LEAK: 100}, days(**{LEAK: list(range(100, 150))})) == [LEAK]


def test_a_pool_that_opens_one_connection_more_is_none() -> None:
    assert too_much({LEAK: 4}, days(**{LEAK: [4] * 25 + [6] * 25})) == []
    assert too_much({LEAK: 4}, days(**{LEAK: [4] * 25 + [7] * 25})) == [LEAK]


def test_runs_that_take_longer_and_longer_are_growth() -> None:
    assert too_much({}, days(more=0.10)) == []
    assert too_much({}, days(more=0.20)) == ["seconds"]


def test_one_container_left_after_one_run_is_too_much() -> None:
    assert too_much({CONTAINERS: 0}, days(**{CONTAINERS: [0] * 20 + [1] + [0] * 29})) == [CONTAINERS]


def test_what_was_left_before_is_not_the_runs() -> None:
    assert too_much({CONTAINERS: 2}, days(**{CONTAINERS: [2] * 50})) == []


def test_memory_is_told_and_not_judged() -> None:
    [_, memory] = growths({MEMORY: 100}, days(**{MEMORY: list(range(100, 150))}))
    assert not memory.too_much
    assert memory.text == "+33.0%"


def test_the_time_of_a_run_whose_stage_was_killed_does_not_count() -> None:
    killed = [Day(50 + n, 400.0, "train", "success") for n in range(10)]
    assert too_much({}, [*days(), *killed]) == []


def test_two_runs_show_no_growth() -> None:
    with pytest.raises(ValueError, match="2 runs are too few"):
        growths({}, days(2))

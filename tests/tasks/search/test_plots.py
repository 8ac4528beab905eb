from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tasks.search import plots
from tasks.search.table import TrialRow


def row(number: int, learning_rate: float, momentum: float = 0.9, **changes: Any) -> TrialRow:
    """A trial whose accuracy follows from its learning rate alone, best at 0.01."""
    value = 0.9 - 0.1 * abs(math.log10(learning_rate) + 2)
    epochs = changes.pop("epochs", 3)
    return TrialRow(
        number=number,
        run_id=f"{number:032x}",
        state=changes.pop("state", "finished"),
        rung=1,
        epochs=epochs,
        best_value=changes.pop("best_value", value),
        history=tuple(value - 0.1 / (epoch + 1) for epoch in range(epochs)),
        values={"learning_rate": learning_rate, "momentum": momentum, "schedule": ("cosine", "one_cycle")[number % 2]},
        seconds=1.0,
    )


@pytest.fixture
def trials() -> list[TrialRow]:
    random = np.random.default_rng(0)
    return [row(n, float(10 ** random.uniform(-4, 0)), float(random.uniform(0.8, 0.98))) for n in range(20)]


def test_what_decides_has_the_largest_share_and_shares_add_up(trials: list[TrialRow]) -> None:
    shares = plots.importances(trials, plots.searched(trials))
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)


def test_trials_are_compared_at_an_epoch_that_all_reached(trials: list[TrialRow]) -> None:
    stopped = [row(t.number, t.values["learning_rate"], epochs=2, state="stopped") for t in trials[:10]]  # type: ignore[arg-type]
    assert plots.common_epochs([*trials[10:], *stopped]) == 2


def test_few_or_equal_trials_have_no_importance(trials: list[TrialRow]) -> None:
    assert plots.importances(trials[:7], ["learning_rate"]) == {}
    assert plots.importances([row(n, 0.01) for n in range(9)], ["learning_rate"]) == {}


def test_a_value_that_never_changes_is_not_shown(trials: list[TrialRow]) -> None:
    fixed = [row(n, 10.0**-n) for n in range(3)]
    assert plots.searched(fixed) == ["learning_rate", "schedule"]


@pytest.mark.parametrize("metric", ["validation_accuracy", "validation_loss"])
def test_all_three_pictures_are_drawn(trials: list[TrialRow], metric: str) -> None:
    drawn = plots.figures([*trials, row(20, 0.1, state="failed", best_value=None)], metric)
    assert set(drawn) == {"best_so_far", "parallel_coordinates", "importance"}
    best = drawn["best_so_far"].axes[0]
    assert "after 20 trials" in best.get_title()
    steps = np.asarray(best.lines[0].get_ydata(), float).tolist()
    assert steps == sorted(steps, reverse=metric == "validation_loss")
    lines = [line for line in drawn["parallel_coordinates"].axes[0].lines if len(line.get_xdata()) == 4]
    assert len(lines) == 20


def test_one_trial_has_a_curve_and_no_more(trials: list[TrialRow]) -> None:
    assert set(plots.figures(trials[:1], "validation_accuracy")) == {"best_so_far"}
    assert plots.figures([], "validation_accuracy") == {}


def test_widely_spread_values_are_drawn_by_their_logarithm() -> None:
    column = plots._Column([1e-4, 1e-2, 1e-1, 1e-3, 5e-3])
    assert column.heights[1] == pytest.approx(2 / 3)
    assert plots._Column([1.0, 2.0, 3.0, 4.0, 5.0]).heights == [0, 0.25, 0.5, 0.75, 1]

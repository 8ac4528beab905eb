from __future__ import annotations

import pytest

from tasks.vision.training import schedules


def test_one_cycle_rises_to_the_peak_and_falls_to_nearly_nothing() -> None:
    shares = [schedules.one_cycle(step, 100, 0.2) for step in range(100)]
    assert shares[0] == pytest.approx(schedules.ONE_CYCLE_START)
    assert shares[20] == max(shares) == 1
    assert shares[:21] == sorted(shares[:21])
    assert shares[20:] == sorted(shares[20:], reverse=True)
    assert 0 < shares[-1] < 0.02


def test_one_cycle_without_warm_up_begins_at_the_peak() -> None:
    assert schedules.one_cycle(0, 10, 0.0) == 1


def test_cosine_falls_from_one_through_a_half_to_almost_nothing() -> None:
    shares = [schedules.cosine(step, 100) for step in range(100)]
    assert shares[0] == 1
    assert shares[50] == pytest.approx(0.5)
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < 0.001


def test_a_schedule_of_one_step_trains() -> None:
    assert schedules.one_cycle(0, 1, 0.9) > 0
    assert schedules.cosine(0, 1) > 0


@pytest.mark.parametrize(
    ("accuracies", "drops"),
    [
        ([], 0),
        ([0.5], 0),
        ([0.5, 0.5, 0.5], 0),
        ([0.5, 0.5, 0.5, 0.5], 1),
        ([0.5, 0.6, 0.7, 0.8], 0),
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], 2),
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5], 0),
    ],
)
def test_plateau_drops_after_three_epochs_in_a_row_without_gain(accuracies: list[float], drops: int) -> None:
    assert schedules.plateau(accuracies, 0.0) == pytest.approx(schedules.PLATEAU_FACTOR**drops)


def test_gains_up_to_min_delta_do_not_count() -> None:
    accuracies = [0.50, 0.505, 0.509]
    assert schedules.epochs_without_gain(accuracies, 0.0) == 0
    assert schedules.epochs_without_gain(accuracies, 0.01) == 2


def test_small_gains_count_once_they_add_up() -> None:
    assert schedules.epochs_without_gain([0.50, 0.505, 0.511], 0.01) == 0


def test_there_is_nothing_to_wait_for_before_the_first_epoch() -> None:
    assert schedules.epochs_without_gain([], 0.0) == 0

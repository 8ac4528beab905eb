from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tasks.vision.evaluation.comparison import compare


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    candidate = np.repeat([True, True, False, False], [both, gained, lost, neither])
    champion = np.repeat([True, False, True, False], [both, gained, lost, neither])
    return candidate, champion


@pytest.mark.parametrize(("gained", "lost"), [(10, 0), (30, 10), (7, 6)])
def test_the_p_value_is_the_binomial_tail(gained: int, lost: int) -> None:
    found = compare(*answers(80, gained, lost, 5), level=0.05, number=1)
    assert found.p_value == pytest.approx(binom.sf(gained - 1, gained + lost, 0.5))
    assert (found.gained, found.lost) == (gained, lost)
    assert found.gap == pytest.approx((gained - lost) / (85 + gained + lost))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (3, 9)])
def test_no_gain_is_never_proof(gained: int, lost: int) -> None:
    assert compare(*answers(50, gained, lost, 5), level=0.05, number=1).p_value == 1


def test_the_interval_is_that_of_resampled_images() -> None:
    candidate, champion = answers(600, 60, 30, 310)
    found = compare(candidate, champion, level=0.05, number=2)
    rng = np.random.default_rng(1)
    difference = candidate.astype(int) - champion.astype(int)
    gaps = [difference[rng.integers(0, 1000, 1000)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.05, 0.95])), abs=0.002)
    assert (found.level, found.look) == (0.05, 2)


@pytest.mark.parametrize("images", [2, 360, 10_000, 1_000_000])
def test_the_interval_holds_the_gap_at_any_size(images: int) -> None:
    candidate, champion = np.zeros((2, images), dtype=bool)
    candidate[: images // 2] = True
    found = compare(candidate, champion, level=1e-6, number=1)
    assert -1 <= found.low <= found.gap <= found.high <= 1


def test_less_chance_of_error_is_a_wider_interval() -> None:
    pair = answers(600, 60, 30, 310)
    wide, narrow = compare(*pair, level=1e-4, number=1), compare(*pair, level=0.05, number=1)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_answers_are_no_gap() -> None:
    found = compare(*answers(10, 0, 0, 3), level=0.025, number=1)
    assert (found.gap, found.low, found.high) == (0, 0, 0)

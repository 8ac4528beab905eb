"""Sides of a comparison in processes of their own."""

from __future__ import annotations

import os
from contextlib import closing
from itertools import count

import pytest

from benchmarks.turns import Epoch, Side, apart


def counts(start: int) -> tuple[Epoch, float]:
    """Make a side whose rates are counted up from `start`."""
    rates = count(start)
    return lambda: float(next(rates)), 0.5


def fails() -> tuple[Epoch, float]:
    """Make a side that cannot start."""
    raise SystemExit(3)


def test_a_side_keeps_its_state_from_epoch_to_epoch() -> None:
    with closing(Side(counts, 7)) as side:
        assert (side.reading, side.epoch(), side.epoch()) == (0.5, 7.0, 8.0)


def test_a_side_that_fails_is_noticed() -> None:
    with pytest.raises(EOFError):
        Side(fails)


def test_work_apart_is_done_in_another_process() -> None:
    assert apart(os.getpid) != os.getpid()

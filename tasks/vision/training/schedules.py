"""Learning rate and early stopping as pure functions of progress.

None of them keeps state: a step number, or the history of validation accuracies, says everything. A training resumed
from a checkpoint therefore uses exactly the learning rates of one without an interruption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.contract.recipe import Recipe

# one_cycle begins at this share of the peak and ends at nearly nothing (Smith and Topin, arXiv:1708.07120).
ONE_CYCLE_START = 0.1
ONE_CYCLE_END = 1e-3
PLATEAU_PATIENCE = 3
PLATEAU_FACTOR = 0.3


def learning_rate(recipe: Recipe, step: int, steps: int, accuracies: Sequence[float]) -> float:
    """Return the learning rate of batch `step` of `steps`, counted from 0, after epochs with these `accuracies`."""
    match recipe.schedule:
        case "one_cycle":
            return recipe.learning_rate * one_cycle(step, steps, recipe.warmup_fraction)
        case "cosine":
            return recipe.learning_rate * cosine(step, steps)
        case "plateau":
            return recipe.learning_rate * plateau(accuracies, recipe.min_delta)


def one_cycle(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: a straight rise, then a straight fall."""
    peak = warmup_fraction * steps
    if step < peak:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * step / peak
    return 1 - (1 - ONE_CYCLE_END) * (step - peak) / (steps - peak)


def cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: half a cosine from 1 down to almost 0.

    Source: Loshchilov and Hutter, arXiv:1608.03983, without restarts.
    """
    return (1 + math.cos(math.pi * step / steps)) / 2


def plateau(accuracies: Sequence[float], min_delta: float) -> float:
    """Share of the peak learning rate after epochs with these validation `accuracies`.

    It shrinks to `PLATEAU_FACTOR` of itself after every `PLATEAU_PATIENCE` epochs in a row without improvement.
    """
    drops = sum(waited > 0 and waited % PLATEAU_PATIENCE == 0 for waited in _waits(accuracies, min_delta))
    return float(PLATEAU_FACTOR**drops)


def epochs_without_gain(accuracies: Sequence[float], min_delta: float) -> int:
    """Count the last epochs whose validation accuracy did not exceed the best before by more than `min_delta`."""
    return _waits(accuracies, min_delta)[-1] if accuracies else 0


def _waits(accuracies: Sequence[float], min_delta: float) -> list[int]:
    """For each epoch, how many epochs ago the last improvement was."""
    best, waited, waits = -math.inf, 0, []
    for accuracy in accuracies:
        best, waited = (accuracy, 0) if accuracy > best + min_delta else (best, waited + 1)
        waits.append(waited)
    return waits

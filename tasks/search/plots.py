"""Figures of a search: which values were tried, which hyperparameters mattered, how the best improved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tasks.search.earlier_trial import State
from tasks.search.table import TrialRow, best_trial, mode

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOG_RATIO = 30.0  # values that span more than this factor are drawn and judged on a log scale
FEWEST_TRIALS = 8  # with fewer, importances would be noise
NEUTRAL, BEST = "#666666", "#ee6677"  # Paul Tol's "bright" colours: safe for the colour-blind


def figures(trials: Sequence[TrialRow], metric: str) -> dict[str, Figure]:
    """Draw the figures that these trials allow, by file name; failed trials are left out.

    Args:
        trials: the rows of a search, in any order.
        metric: `validation_accuracy` (higher is better) or `validation_loss` (lower is better).
    """
    judged = sorted((t for t in trials if t.state != State.FAILED and t.best_value is not None), key=lambda t: t.number)
    names = searched(judged)
    drawn: dict[str, Figure] = {}
    if judged:
        drawn["best_so_far"] = best_so_far_figure(judged, metric)
    if len(judged) > 1 and names:
        drawn["parallel_coordinates"] = parallel_coordinates_figure(judged, names, metric)
    shares = importances(judged, names)
    if shares:
        drawn["importance"] = importance_figure(shares, len(judged), common_epochs(judged), metric)
    return drawn


def searched(trials: Sequence[TrialRow]) -> list[str]:
    """Name the hyperparameters that differ between trials."""
    names = trials[0].values if trials else {}
    return [name for name in names if len({str(trial.values.get(name)) for trial in trials}) > 1]


def common_epochs(trials: Sequence[TrialRow]) -> int:
    """Count the epochs that every trial has trained: after these they can be compared, also those stopped early."""
    return min(len(trial.history) for trial in trials)


def importances(trials: Sequence[TrialRow], names: Sequence[str]) -> dict[str, float]:
    """Share the variance of the metric among hyperparameters, by functional ANOVA (Hutter et al., ICML 2014).

    Judged after the last epoch that all trials reached. Empty when there are too few trials, or all ended equal.

    Returns:
        Shares that add up to 1, the largest first.
    """
    if len(trials) < FEWEST_TRIALS or not names:
        return {}
    epoch = common_epochs(trials)
    scores = [trial.history[epoch - 1] for trial in trials]
    if not np.ptp(scores) > 0:
        return {}
    import optuna  # takes seconds, and a search of few trials needs none of it
    from optuna.importance import FanovaImportanceEvaluator

    distributions = {name: _distribution([trial.values[name] for trial in trials]) for name in names}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce a study of no interest to the reader
    study = optuna.create_study()
    for trial, score in zip(trials, scores, strict=True):
        chosen = {name: trial.values[name] for name in names}
        study.add_trial(optuna.create_trial(params=chosen, distributions=distributions, value=score))
    shares = optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def best_so_far_figure(trials: Sequence[TrialRow], metric: str) -> Figure:
    """Draw each trial's best value, and the best so far, over the epochs that the search had trained."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    cost = np.cumsum([trial.epochs for trial in trials])
    scores = np.array([trial.best_value for trial in trials], dtype=float)
    better = np.maximum if mode(metric) == "max" else np.minimum
    for state, marker, alpha in ((State.FINISHED, "o", 0.8), (State.STOPPED, "x", 0.5)):
        chosen = np.array([trial.state == state for trial in trials])
        axes.scatter(cost[chosen], scores[chosen], 22, NEUTRAL, marker=marker, alpha=alpha, label=state, linewidths=1)
    axes.step(cost, better.accumulate(scores), where="post", color=BEST, linewidth=2, label="best so far")
    axes.set(xlabel="epochs trained, all trials together", ylabel=_words(metric))
    axes.set_title(f"Best so far: {_shown(better.reduce(scores), metric)} after {len(trials)} trials", fontsize=11)
    if mode(metric) == "max":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def importance_figure(shares: dict[str, float], trials: int, epoch: int, metric: str) -> Figure:
    """Draw the share of each hyperparameter as a bar."""
    figure = Figure(figsize=(7.5, 1.4 + 0.38 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    bars = axes.barh(names, values, color="#4477aa")
    axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, fontsize=9)
    axes.set(xlim=(0, 1.1 * max(values)), xlabel=f"share of the variance of {_words(metric)}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(f"What mattered after epoch {epoch}, from {trials} trials (fANOVA)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def parallel_coordinates_figure(trials: Sequence[TrialRow], names: Sequence[str], metric: str) -> Figure:
    """Draw a line per trial through its values, coloured by its result; the best is drawn last, as a thick line."""
    figure = Figure(figsize=(2.2 + 1.5 * (len(names) + 1), 4.8), layout="constrained")
    axes = figure.subplots()
    scores = np.array([trial.best_value for trial in trials], dtype=float)
    sign = 1 if mode(metric) == "max" else -1
    winner = best_trial(trials, metric) or trials[0]
    columns = [_Column([trial.values[name] for trial in trials]) for name in names] + [_Column(list(scores))]
    # Many trials end nearly equal: the colour shows the order, the last axis the values.
    order = np.argsort(np.argsort(sign * scores, kind="stable"), kind="stable")
    colours = colormaps["viridis"](Normalize(0, max(1, len(trials) - 1))(order))
    best = [trial.number for trial in trials].index(winner.number)
    for index in [*(i for i in np.argsort(order) if i != best), best]:
        heights = [column.heights[index] for column in columns]
        style = {"color": BEST, "linewidth": 2.6} if index == best else {"color": colours[index], "linewidth": 1.1}
        axes.plot(range(len(columns)), heights, alpha=1 if index == best else 0.75, **style)
    for x, column in enumerate(columns):
        axes.axvline(x, color=NEUTRAL, linewidth=0.8)
        for height, text in column.ticks:
            label: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": "right", "va": "center"}
            box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5}
            axes.annotate(text, (x, height), (-5, 0), bbox=box, **label)
    axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in (*names, metric)])
    axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.6, len(columns) - 0.8))
    title = f"{len(trials)} trials; red is the best, number {trials[best].number}; yellow is good, violet bad"
    axes.set_title(title, fontsize=11)
    axes.spines[:].set_visible(False)
    return figure


class _Column:
    """One axis: where each trial's line crosses it, 0 to 1, and its tick labels."""

    def __init__(self, values: Sequence[Any]) -> None:
        if all(isinstance(value, int | float) for value in values):
            scale = math.log10 if _logarithmic(values) else float
            low, high = scale(min(values)), scale(max(values))
            reach = (high - low) or 1.0
            self.heights = [(scale(value) - low) / reach for value in values]
            marks = sorted(set(values)) if len(set(values)) <= 4 else self._between(low, high, values)
            self.ticks = [((scale(mark) - low) / reach, f"{mark:.3g}") for mark in marks]
        else:
            kinds = sorted({str(value) for value in values})
            place = {kind: i / max(1, len(kinds) - 1) for i, kind in enumerate(kinds)}
            self.heights = [place[str(value)] for value in values]
            self.ticks = [(height, kind) for kind, height in place.items()]

    @staticmethod
    def _between(low: float, high: float, values: Sequence[float]) -> list[float]:
        places = np.linspace(low, high, 5)
        return [float(10**place) for place in places] if _logarithmic(values) else [float(place) for place in places]


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, int | float) for value in values) and len(set(values)) > 4:
        return FloatDistribution(min(values), max(values), log=_logarithmic(values))
    return CategoricalDistribution(sorted(set(values), key=str))


def _logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > LOG_RATIO


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _shown(value: float, metric: str) -> str:
    return f"{value:.2%}" if mode(metric) == "max" else f"{value:.4f}"

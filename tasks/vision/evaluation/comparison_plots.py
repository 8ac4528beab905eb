"""Figures of the evidence: the gap between two models, their calibration, where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.evidence import Comparison
from tasks.vision.data.plots import short
from tasks.vision.evaluation.scoring import CalibrationBins

BETTER, WORSE, NEUTRAL = "#4477aa", "#ee6677", "#666666"  # Paul Tol's "bright" colours: safe for the colour-blind
COLOURS = ("#4477aa", "#ccbb44")
SHOWN_CLASSES = 25
ANNOTATED = 15  # up to so many classes every cell shows its number


def gap_figure(found: Comparison, policy: GatePolicy, champion: str) -> Figure:
    """Draw the interval of the accuracy gap, candidate minus champion, against zero and the margin."""
    figure = Figure(figsize=(7.5, 2.3), layout="constrained")
    axes = figure.subplots()
    margin, limits = -policy.non_inferiority_margin, (found.low, found.gap, found.high)
    reach = 1.25 * max(map(abs, (*limits, margin, 1 / found.images)))
    axes.axvspan(-reach, margin, color=WORSE, alpha=0.12, linewidth=0)
    axes.axvline(margin, color=WORSE, linestyle="--", linewidth=1.2)
    axes.axvline(0, color=NEUTRAL, linewidth=1.2)
    axes.plot([found.low, found.high], [0, 0], color=BETTER, linewidth=7, solid_capstyle="butt", alpha=0.55)
    axes.plot([found.gap], [0], marker="o", markersize=9, color=BETTER)
    axes.annotate(f"{100 * found.gap:+.2f}", (found.gap, 0), (0, 10), textcoords="offset points", ha="center")
    for value, align in ((found.low, "right"), (found.high, "left")):
        offset = (-5 if align == "right" else 5, -15)
        text = f"{100 * value:+.2f}"
        axes.annotate(text, (value, 0), offset, textcoords="offset points", ha=align, fontsize=8, color=NEUTRAL)
    axes.set(xlim=(-reach, reach), ylim=(-1, 1), yticks=[])
    axes.set_xlabel(f"percentage points of accuracy; dashed: the margin, {100 * margin:+.2f}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0"))
    axes.set_title(
        f"Accuracy, candidate minus {champion}, with its {100 - 200 * found.level:.4g} % interval", fontsize=11
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def reliability_figure(models: Mapping[str, CalibrationBins]) -> Figure:
    """Draw the reliability diagram of one or two models: accuracy by confidence, and how often each occurs."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1, label="perfectly calibrated")
    for (name, bins), colour, marker in zip(models.items(), COLOURS, "os", strict=False):
        used = bins.images > 0
        images = bins.images[used]
        x, y = bins.confidence[used] / images, bins.correct[used] / images
        axes.plot(x, y, color=colour, linewidth=1.4, label=name)
        axes.scatter(x, y, 12 + 90 * images / images.max(), color=colour, marker=marker, alpha=0.85)
        edges = np.linspace(0, 1, len(bins.images) + 1)
        counts.stairs(bins.images / bins.images.sum(), edges, color=colour, linewidth=1.6)
    axes.set(ylim=(-0.02, 1.03), ylabel="correct", title="Reliability: below the line, a model is overconfident")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    counts.set(xlim=(0, 1.01), xlabel="confidence of the answer", ylabel="images")
    for part in (axes, counts):
        part.grid(alpha=0.25)
        part.spines[["top", "right"]].set_visible(False)
        part.yaxis.set_major_formatter(PercentFormatter(1.0))
    counts.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def confusion_difference_figure(
    candidate: NDArray[np.int64], champion: NDArray[np.int64], classes: Sequence[str], name: str
) -> Figure:
    """Draw candidate's minus champion's confusion matrix, [true, predicted]; of many classes those that changed most.

    Colours show what is better (more on the diagonal, less off it), numbers how many images more or fewer.
    """
    difference = candidate - champion
    moved = np.abs(difference).sum(0) + np.abs(difference).sum(1)
    chosen = np.sort(np.argsort(-moved, kind="stable")[:SHOWN_CLASSES])
    difference = difference[np.ix_(chosen, chosen)]
    gain = np.where(np.eye(len(chosen), dtype=bool), difference, -difference)
    reach = max(1, int(np.abs(gain).max()))
    side = min(3.4 + 0.36 * len(chosen), 9.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(gain, cmap="RdBu", vmin=-reach, vmax=reach)
    names = [short(classes[index]) for index in chosen]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    which = "" if len(chosen) == len(classes) else f"\n{len(chosen)} of {len(classes)} classes, those that changed most"
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"Test images more or fewer than {name}{which}", fontsize=11)
    if len(chosen) <= ANNOTATED:
        _annotate(axes, difference, np.abs(gain) > 0.6 * reach)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[-reach, 0, reach])
    bar.ax.set_yticklabels(["worse", "same", "better"])
    return figure


def _annotate(axes: Axes, difference: NDArray[np.int64], dark: NDArray[np.bool_]) -> None:
    for (row, column), change in np.ndenumerate(difference):
        if change:
            colour = "white" if dark[row, column] else "black"
            axes.text(column, row, f"{int(change):+d}", ha="center", va="center", color=colour, fontsize=8)

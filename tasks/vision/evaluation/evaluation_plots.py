"""Figures of an evaluation: the confusion matrix and precision, recall and F1 per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tasks.vision.data.plots import short
from tasks.vision.evaluation.scoring import ClassScores

ANNOTATED = 20  # up to so many classes every cell shows its count


def confusion_figure(scores: ClassScores, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix, coloured by the share of each true class, annotated with counts."""
    counts = scores.confusion
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(4 + 0.35 * len(classes), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"Confusion matrix, {int(counts.sum())} test images")
    names = [short(name) for name in classes]
    size = 9 if len(classes) <= ANNOTATED else 5
    axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(classes)), names, fontsize=size)
    if len(classes) <= ANNOTATED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(int(count)), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def per_class_figure(scores: ClassScores, classes: Sequence[str]) -> Figure:
    """Draw precision, recall and F1 of each class as horizontal bars, the worst F1 on top (at most 40 classes)."""
    worst = np.argsort(scores.f1, kind="stable")[:40][::-1]
    figure = Figure(figsize=(8, 1.5 + 0.42 * len(worst)), layout="constrained")
    axes = figure.subplots()
    height = 0.26
    positions = np.arange(len(worst))
    for offset, (name, values, colour) in enumerate(
        [("F1", scores.f1, "#1f4e79"), ("recall", scores.recall, "#6fa8dc"), ("precision", scores.precision, "#c9daf8")]
    ):
        axes.barh(positions + (offset - 1) * height, values[worst], height, label=name, color=colour)
    axes.set_yticks(positions, [f"{short(classes[i])} ({int(scores.support[i])})" for i in worst])
    axes.set(xlim=(0, 1), xlabel="score", title="Per class (test images), worst F1 on top")
    axes.grid(axis="x", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], loc="upper center", bbox_to_anchor=(0.5, -0.08 - 0.2 / len(worst)), ncols=3
    )
    return figure

"""The plot of a training: loss, accuracy, learning rate and waiting for data over its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tasks.vision.training.events import EpochEnd

TRAIN, VALIDATION, NEUTRAL = "#4477aa", "#ee6677", "#666666"  # Paul Tol's "bright" colours: safe for the colour-blind


def curves_figure(history: Sequence[EpochEnd], best: EpochEnd, title: str) -> Figure:
    """Draw four panels over `history`; a dotted line marks the `best` epoch."""
    figure = Figure(figsize=(16, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=12)
    loss, accuracy, rate, wait = figure.subplots(1, 4, sharex=True)
    epochs = [end.epoch for end in history]
    marker = "o" if len(epochs) < 40 else ""

    def line(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
        axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3, linewidth=1.6)

    line(loss, [end.train_loss for end in history], "train", TRAIN)
    line(loss, [end.validation_loss for end in history], "validation", VALIDATION)
    line(accuracy, [end.train_accuracy for end in history], "train", TRAIN)
    line(accuracy, [end.validation_accuracy for end in history], "validation", VALIDATION)
    line(rate, [end.learning_rate for end in history], "learning rate", NEUTRAL)
    shares = [math.nan if end.data_wait_share is None else end.data_wait_share for end in history]
    line(wait, shares, "waiting for data", NEUTRAL)
    loss.set_title("Loss")
    loss.set_yscale("log")
    accuracy.set_title(f"Accuracy (best: {best.validation_accuracy:.2%} in epoch {best.epoch})")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    rate.set_title("Learning rate at the end of the epoch")
    wait.set_title("Share of time waiting for data")
    wait.set_ylim(0, 1)
    wait.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, accuracy, rate, wait):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axvline(best.epoch, color=NEUTRAL, linestyle=":", linewidth=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False)
    accuracy.legend(frameon=False, loc="lower right")
    return figure

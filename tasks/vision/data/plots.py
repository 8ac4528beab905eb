"""Figures of a data set: how many images each class has, what they look like, and which are near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.vision.data.gold import Gold
from tasks.vision.data.near_duplicates import Pair, nearest

SHOWN_CLASSES = 20
SAMPLES = 10
COLOURS = {"train": "#1f4e79", "validation": "#6fa8dc", "test": "#f6b26b"}
LEGIBLE = 40  # up to so many classes each has a named bar
GAP = 0.06  # between two samples, as a share of their side
SHOWN_PAIRS, PAIR_COLUMNS = 12, 3
OTHER_CLASS = "#b00020"


def histogram_figure(gold: Gold) -> Figure:
    """Draw the images per class, stacked by split; many classes share one axis without names, largest first."""
    counts = {name: np.bincount(split.labels, minlength=len(gold.classes)) for name, split in gold.splits.items()}
    total = np.sum(list(counts.values()), axis=0)
    many = len(gold.classes) > LEGIBLE
    order = np.argsort(-total, kind="stable") if many else np.arange(len(gold.classes))[::-1]
    figure = Figure(figsize=(9, 5 if many else 1.8 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    base = np.zeros(len(order), dtype=np.int64)
    positions = np.arange(len(order))
    for name, values in counts.items():
        label, colour = f"{name} ({values.sum():,})", COLOURS[name]
        if many:
            axes.bar(positions, values[order], width=1.0, bottom=base, label=label, color=colour)
        else:
            axes.barh(positions, values[order], height=0.72, left=base, label=label, color=colour)
        base = base + values[order]
    if many:
        axes.set(xlabel=f"{len(order)} classes, largest first", ylabel="images", xlim=(-0.5, len(order) - 0.5))
    else:
        axes.set_yticks(positions, [short(gold.classes[index]) for index in order])
        axes.set(xlabel="images")
        for position, value in zip(positions, total[order], strict=True):
            axes.annotate(f"{value:,}", (value, position), (4, 0), textcoords="offset points", va="center", fontsize=8)
    if many:
        axes.margins(y=0.08)
    else:
        axes.margins(x=0.08, y=0.02)
    axes.grid(axis="y" if many else "x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{gold.dataset}: {int(sum(map(len, gold.splits.values()))):,} images in {len(order)} classes")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def grid_figure(gold: Gold) -> Figure:
    """Draw the first training images of each class, a row per class; of many classes, some evenly chosen."""
    chosen = np.unique(np.linspace(0, len(gold.classes) - 1, SHOWN_CLASSES).round().astype(int))
    channels, side, _ = gold.shape
    step = side + max(1, round(side * GAP))
    sheet = np.full((len(chosen) * step, SAMPLES * step, channels), 255, dtype=np.uint8)
    for row, label in enumerate(chosen):
        members = np.flatnonzero(gold.train.labels == label)[:SAMPLES]
        for column, index in enumerate(members):
            top, left = row * step, column * step
            sheet[top : top + side, left : left + side] = gold.train.images[index].transpose(1, 2, 0)
    return _sheet_figure(sheet, [short(gold.classes[label]) for label in chosen], step, gold)


def _sheet_figure(sheet: NDArray[np.uint8], names: list[str], step: int, gold: Gold) -> Figure:
    channels, side, _ = gold.shape
    width = 8.8 - 0.095 * max(map(len, names))  # of 9 inches, what the class names leave
    figure = Figure(figsize=(9, 0.8 + width * sheet.shape[0] / sheet.shape[1]), layout="compressed")
    axes = figure.subplots()
    axes.imshow(sheet[:, :, 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks(np.arange(len(names)) * step + side / 2, names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    which = f"{len(names)} of {len(gold.classes)} classes" if len(names) < len(gold.classes) else "every class"
    figure.suptitle(f"{gold.dataset}: training images of {which}, {side} x {side} pixels as the model sees them")
    return figure


def pairs_figure(pairs: Sequence[Pair], gold: Gold) -> Figure:
    """Draw near-duplicates side by side, the test image left, the nearest first; other classes are marked.

    Args:
        pairs: at least one, sorted.
        gold: the images.
    """
    shown = nearest(pairs)[:SHOWN_PAIRS]
    rows = -(-len(shown) // PAIR_COLUMNS)
    figure = Figure(figsize=(9, 0.7 + 1.85 * rows), layout="constrained")
    cells = figure.subplots(rows, PAIR_COLUMNS, squeeze=False).ravel()
    for axes, pair in zip(cells, shown, strict=False):
        other = gold.splits[pair.split]
        sides = gold.test.images[pair.test], other.images[pair.other]
        gap = np.full((*gold.shape[:2], max(1, round(gold.shape[2] * GAP))), 255, np.uint8)
        sheet = np.concatenate([sides[0], gap, sides[1]], axis=2).transpose(1, 2, 0)
        axes.imshow(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=255)
        names = gold.classes[gold.test.labels[pair.test]], gold.classes[other.labels[pair.other]]
        same = names[0] == names[1]
        title = f"test, {pair.split}{' (mirrored)' if pair.mirrored else ''}: {pair.distance} of 64 bits differ"
        axes.set_title(title, fontsize=7)
        axes.set_xlabel(short(names[0]) if same else f"{short(names[0])} / {short(names[1])}", fontsize=8)
        if not same:
            axes.xaxis.label.set(color=OTHER_CLASS, weight="bold")
    for axes in cells:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    count = len({pair.test for pair in pairs})
    first = f"; the nearest {len(shown)}" if count > len(shown) else ""
    figure.suptitle(f"{gold.dataset}: {count:,} test images with a near-duplicate in train or validation{first}")
    return figure


def short(name: str) -> str:
    """Return a class name as a label of a figure."""
    # A dollar sign would start mathematics in matplotlib.
    return (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")

"""A grid of the images whose label is probably wrong, for a person to look through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from tasks.vision.data.gold import Gold
from tasks.vision.data.plots import short
from tasks.vision.evaluation.suspected_labels import Suspect

SHOWN = 24
COLUMNS = 6
WIDTH = 11.0  # inches of the figure
FONT = 8.5  # points; less where names are long
LOOKS = "#b35900"  # dark orange: stands out from black for the colour-blind too


def suspects_figure(suspects: Sequence[Suspect], gold: Gold) -> Figure:
    """Draw the most suspicious images with the label they have and the class they look like.

    Args:
        suspects: of any splits of `gold`, in any order; without one, the figure says so.
        gold: where the pictures and the names of the classes come from.
    """
    shown = sorted(suspects, key=lambda one: one.score)[:SHOWN]
    if not shown:
        return _none()
    captions = [
        (f"given {short(gold.classes[one.label])}", f"looks like {short(gold.classes[one.suggested])}") for one in shown
    ]
    side = WIDTH / COLUMNS
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    longest = max(len(text) for caption in captions for text in caption)
    size = min(FONT, 72 * side / (0.6 * longest))  # a character is about 0.6 of its font's size wide
    width = max(columns * side, 6.0)  # room for the title
    figure = Figure(figsize=(width, 0.6 + rows * (side + 0.25)), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, one, (given, looks) in zip(cells, shown, captions, strict=False):
        pixels = gold.splits[one.split].images[one.index].transpose(1, 2, 0)
        axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(given, fontsize=size, pad=3)
        axes.set_xlabel(looks, fontsize=size, color=LOOKS, fontweight="bold", labelpad=3)
    figure.suptitle(_title(suspects, gold, len(shown)), fontsize=11)
    return figure


def _title(suspects: Sequence[Suspect], gold: Gold, shown: int) -> str:
    counts = Counter(one.split for one in suspects)
    found = " and ".join(f"{counts[split]:,} {split}" for split in gold.splits if counts[split])
    which = "" if shown == len(suspects) else f"; the {shown} most suspicious"
    return f"Labels that look wrong: {found} {'image' if len(suspects) == 1 else 'images'}{which}"


def _none() -> Figure:
    figure = Figure(figsize=(6, 1), layout="constrained")
    figure.suptitle("No label looks wrong", fontsize=11)
    return figure

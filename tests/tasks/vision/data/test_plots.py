from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.near_duplicates import Pair
from tasks.vision.data.plots import LEGIBLE, SAMPLES, SHOWN_CLASSES, grid_figure, histogram_figure, pairs_figure


def make_gold(classes: int, channels: int = 3, per_class: int = 12) -> Gold:
    def split(count: int) -> Split:
        labels = np.repeat(np.arange(classes, dtype=np.int64), count)
        images = np.zeros((len(labels), channels, 8, 8), np.uint8)
        images[:] = labels[:, None, None, None] + 1
        return Split(images, labels, tuple(map(str, range(len(labels)))))

    names = tuple(f"{i:03d} costs $5 and $6 {'long ' * 10}" for i in range(classes))
    return Gold(split(per_class), split(1), split(2), names, (0.5,) * channels, (0.2,) * channels, "f" * 64, "pets")


def rendered(figure: Figure) -> int:
    buffer = BytesIO()
    figure.savefig(buffer)
    return buffer.tell()


def test_few_classes_have_a_bar_each_with_their_count() -> None:
    figure = histogram_figure(make_gold(3))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["15"] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train (36)", "validation (3)", "test (6)"]
    assert rendered(figure)


def test_many_classes_share_an_axis_without_names() -> None:
    figure = histogram_figure(make_gold(LEGIBLE + 1))
    assert figure.axes[0].get_xlabel() == f"{LEGIBLE + 1} classes, largest first"
    assert rendered(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_class_has_a_row_of_its_own_images(channels: int) -> None:
    axes = grid_figure(make_gold(2, channels)).axes[0]
    sheet = np.asarray(axes.images[0].get_array()).reshape(2 * 9, SAMPLES * 9, -1)
    for row in range(2):
        assert (sheet[row * 9 : row * 9 + 8, :8] == row + 1).all()
        assert (sheet[row * 9 : row * 9 + 8, (SAMPLES - 1) * 9 : (SAMPLES - 1) * 9 + 8] == row + 1).all()


def test_of_many_classes_some_are_shown_the_first_and_last_among_them() -> None:
    figure = grid_figure(make_gold(50, per_class=1))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == SHOWN_CLASSES
    assert (labels[0][:3], labels[-1][:3]) == ("000", "049")
    assert rendered(figure)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 20])
def test_near_duplicates_are_shown_in_pairs_and_other_classes_are_marked(channels: int, count: int) -> None:
    gold = make_gold(20, channels)
    pairs = [Pair(i, "validation", (i // 2 + (i == 0)) % 20, i, 0.9, mirrored=i == 0) for i in range(count)]
    figure = pairs_figure(pairs, gold)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == min(count, 12)
    assert shown[0].get_title() == "test, validation (mirrored): 0 of 64 bits differ"
    assert " / " in shown[0].get_xlabel()
    assert shown[0].xaxis.label.get_fontweight() == "bold"
    assert all(" / " not in axes.get_xlabel() for axes in shown[1:])
    assert rendered(figure)

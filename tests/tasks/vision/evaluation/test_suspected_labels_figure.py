from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation.suspected_labels import Suspect
from tasks.vision.evaluation.suspected_labels_figure import SHOWN, suspects_figure

CLASSES = ("$ant$", "bee", "c" * 200)


def make_gold(channels: int = 3, side: int = 8) -> Gold:
    images = np.zeros((40, channels, side, side), np.uint8)
    images[:] = np.arange(40, dtype=np.uint8)[:, None, None, None]
    split = Split(images, np.zeros(40, np.int64), tuple(f"{i}.png" for i in range(40)))
    return Gold(split, split, split, CLASSES, (0.5,) * channels, (0.2,) * channels, "f" * 64, "pets")


def suspect(index: int, score: float, split: str = "test", suggested: int = 1) -> Suspect:
    return Suspect(split, index, f"{index}.png", label=0, suggested=suggested, score=score)


def titles(figure: Figure) -> list[tuple[str, str]]:
    figure.savefig(BytesIO())  # must not fail on any name
    return [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes if axes.get_title()]


def shown(figure: Figure) -> list[int]:
    """Index of each picture: the value of its pixels."""
    return [int(np.asarray(axes.images[0].get_array()).max()) for axes in figure.axes if axes.images]


def test_the_most_suspicious_come_first_whatever_their_order() -> None:
    figure = suspects_figure([suspect(i, score=(i * 7 % 40) / 40) for i in range(40)], make_gold())
    assert shown(figure) == sorted(range(40), key=lambda i: i * 7 % 40)[:SHOWN]
    assert "40 test images; the 24 most suspicious" in figure.get_suptitle()


def test_a_picture_has_the_given_label_and_what_it_looks_like() -> None:
    figure = suspects_figure([suspect(3, 0.1), suspect(5, 0.2, suggested=2)], make_gold())
    given = r"given \$ant\$"  # escaped: a dollar sign starts mathematics
    assert titles(figure) == [(given, "looks like bee"), (given, f"looks like {'c' * 23}…")]


def test_suspects_of_several_splits_are_counted_apart() -> None:
    figure = suspects_figure([suspect(1, 0.1, "validation"), suspect(2, 0.3, "train"), suspect(3, 0.2)], make_gold())
    assert figure.get_suptitle() == "Labels that look wrong: 1 train and 1 validation and 1 test images"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 5, 7, 24, 25])
def test_any_number_of_images_of_any_kind_is_drawn(count: int, channels: int) -> None:
    figure = suspects_figure([suspect(i, i / 40) for i in range(count)], make_gold(channels))
    assert len(titles(figure)) == len(shown(figure)) == min(count, SHOWN)


def test_without_suspects_the_figure_says_so() -> None:
    figure = suspects_figure([], make_gold())
    assert figure.get_suptitle() == "No label looks wrong"
    assert titles(figure) == []

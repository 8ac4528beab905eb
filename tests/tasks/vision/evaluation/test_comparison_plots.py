from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.evidence import Comparison
from tasks.vision.evaluation.comparison import compare
from tasks.vision.evaluation.comparison_plots import (
    SHOWN_CLASSES,
    confusion_difference_figure,
    gap_figure,
    reliability_figure,
)
from tasks.vision.evaluation.scoring import calibration_bins

POLICY = GatePolicy(non_inferiority_margin=0.02)


def rendered(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def comparison(gained: int, lost: int, images: int) -> Comparison:
    candidate, champion = np.zeros(images, bool), np.zeros(images, bool)
    candidate[:gained] = True
    champion[gained : gained + lost] = True
    return compare(candidate, champion, level=0.025, number=1)


@pytest.mark.parametrize(("gained", "lost", "images"), [(40, 10, 400), (0, 30, 100), (0, 0, 50), (1, 0, 1)])
def test_the_gap_its_interval_zero_and_the_margin_are_in_sight(gained: int, lost: int, images: int) -> None:
    found = comparison(gained, lost, images)
    figure = gap_figure(found, POLICY, "champion, version 3")
    (axes,) = figure.axes
    margin, zero, interval, gap = (np.asarray(line.get_xdata()).tolist() for line in axes.lines)
    assert (margin, zero) == ([-0.02, -0.02], [0, 0])
    assert (interval, gap) == ([found.low, found.high], [found.gap])
    low, high = axes.get_xlim()
    assert all(low < value < high for value in (*interval, *gap, -0.02, 0))
    assert axes.get_title() == "Accuracy, candidate minus champion, version 3, with its 95 % interval"
    assert rendered(figure)


def test_the_reliability_diagram_shows_accuracy_by_confidence() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    sure = np.tile(np.array([[0.9, 0.1]], np.float32), (10, 1))
    unsure = np.tile(np.array([[0.6, 0.4]], np.float32), (10, 1))
    figure = reliability_figure({"a": calibration_bins(labels, sure), "b": calibration_bins(labels, unsure)})
    points = {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[0].lines}
    assert points["a"] == pytest.approx(np.array([[0.9, 0.8]]))
    assert points["b"] == pytest.approx(np.array([[0.6, 0.8]]))
    assert rendered(figure)


def test_one_model_alone_has_a_reliability_diagram_too() -> None:
    bins = calibration_bins(np.array([0]), np.array([[1.0, 0.0]], np.float32))
    assert len(reliability_figure({"candidate": bins}).axes[0].lines) == 2


def test_the_difference_of_confusions_is_coloured_by_better_and_worse() -> None:
    candidate, champion = np.array([[9, 1], [4, 6]]), np.array([[7, 3], [2, 8]])
    axes = confusion_difference_figure(candidate, champion, ("ant $1", "bee $2"), "the champion, version 1").axes[0]
    assert np.asarray(axes.images[0].get_array()).tolist() == [[2, 2], [-2, -2]]
    assert [text.get_text() for text in axes.texts] == ["+2", "-2", "+2", "-2"]
    assert rendered(axes.figure)  # type: ignore[arg-type]  # a figure of its own, no part of another


def test_of_many_classes_those_that_changed_most_are_shown() -> None:
    champion = np.eye(100, dtype=np.int64) * 10
    candidate = champion.copy()
    candidate[97, 97], candidate[97, 3] = 5, 5
    figure = confusion_difference_figure(candidate, champion, tuple(f"{i:03d}" for i in range(100)), "the champion")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == SHOWN_CLASSES
    assert {"097", "003"} <= set(names)
    assert f"{SHOWN_CLASSES} of 100 classes" in figure.axes[0].get_title()
    assert rendered(figure)


def test_equal_models_differ_nowhere() -> None:
    same = np.array([[9, 1], [4, 6]])
    axes = confusion_difference_figure(same, same, ("ant", "bee"), "the champion").axes[0]
    assert not np.asarray(axes.images[0].get_array()).any()
    assert len(axes.texts) == 0

from __future__ import annotations

import numpy as np
import pytest

from tasks.vision.data.gold import Split
from tasks.vision.evaluation import slices
from tasks.vision.evaluation.scoring import score
from tasks.vision.evaluation.slices import NO_VALUE, slices_of

LABELS = np.array([0, 0, 1, 1])
ANSWERS = np.array([0, 1, 1, 1])


def found(columns: dict[str, tuple[str, ...]]) -> list[tuple[str, str, int, float | None]]:
    split = Split(np.zeros((4, 1, 2, 2), np.uint8), LABELS, ("a", "b", "c", "d"), columns)
    scores = score(LABELS, np.eye(3, dtype=np.float32)[ANSWERS])
    made = slices_of(split, ("ant", "bee", "cat"), scores, LABELS == ANSWERS)
    return [(part.column, part.value, part.images, part.accuracy) for part in made]


def test_each_class_is_a_slice_and_one_without_images_has_no_accuracy() -> None:
    assert found({}) == [("class", "ant", 2, 0.5), ("class", "bee", 2, 1.0), ("class", "cat", 0, None)]


def test_each_value_of_a_column_is_a_slice_and_so_are_images_without_one() -> None:
    assert found({"camera": ("left", "", "", "left")})[3:] == [
        ("camera", NO_VALUE, 2, 0.5),
        ("camera", "left", 2, 1.0),
    ]


def test_a_column_with_too_many_values_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MAX_VALUES", 3)
    assert len(found({"id": ("1", "2", "3", "4"), "camera": ("a", "b", "c", "c")})) == 3 + 3

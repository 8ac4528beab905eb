from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from tasks.vision.data.gold import Split
from tasks.vision.evaluation.suspected_labels import COLUMNS, Suspect, find, write


def make_split(labels: NDArray[np.int64]) -> Split:
    return Split(np.zeros((len(labels), 1, 2, 2), np.uint8), labels, tuple(f"{i}.png" for i in range(len(labels))))


def sure(answers: list[int], classes: int, confidence: float = 0.95) -> NDArray[np.float32]:
    probabilities = np.full((len(answers), classes), (1 - confidence) / (classes - 1), np.float32)
    probabilities[range(len(answers)), answers] = confidence
    return probabilities


def test_planted_wrong_labels_are_found_among_real_digits() -> None:
    digits = load_digits()
    rng = np.random.default_rng(0)
    planted = rng.choice(len(digits.target), 40, replace=False)
    labels = digits.target.astype(np.int64)
    labels[planted] = (labels[planted] + rng.integers(1, 10, 40)) % 10
    model = LogisticRegression(max_iter=200)
    probabilities = cross_val_predict(model, digits.data / 16, labels, cv=3, method="predict_proba")
    found = find("train", make_split(labels), probabilities.astype(np.float32))
    indices = [one.index for one in found]
    assert len(set(indices) & set(planted)) >= 30  # three of four, by a model that itself is wrong on 133 others
    assert len(set(indices[:30]) & set(planted)) >= 28  # and they come first
    assert len(indices) < 80  # of 1,797
    right = [one for one in found if one.index in set(planted)]
    assert sum(one.suggested == digits.target[one.index] for one in right) >= 28
    assert [one.score for one in found] == sorted(one.score for one in found)
    assert {one.split for one in found} == {"train"}


def test_a_suspect_says_what_it_is() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    probabilities = sure([0, 0, 0, 1, 1, 1, 1], 2)
    assert find("test", make_split(labels), probabilities) == [
        Suspect("test", index=6, name="6.png", label=0, suggested=1, score=pytest.approx(0.05))
    ]


def test_right_labels_are_not_suspected() -> None:
    labels = np.arange(30) % 3
    assert find("test", make_split(labels), sure(labels.tolist(), 3, confidence=0.4)) == []


def test_classes_without_images_are_no_obstacle() -> None:
    labels = np.array([1] * 10 + [3] * 10)
    answers = [1] * 9 + [3] + [3] * 9 + [4]  # of six classes, two have images; one image looks like a third
    assert {one.index for one in find("test", make_split(labels), sure(answers, 6))} <= {9, 19}
    assert 9 in {one.index for one in find("test", make_split(labels), sure(answers, 6))}


@pytest.mark.parametrize("answer", [0, 1])
def test_one_image_alone_is_no_obstacle(answer: int) -> None:
    assert find("test", make_split(np.array([0])), sure([answer], 2)) == []


@pytest.mark.parametrize("confidence", [1.0, 0.5])
def test_certain_and_undecided_models_are_no_obstacle(confidence: float) -> None:
    labels = np.array([0, 1] * 5)
    assert find("test", make_split(labels), sure(labels.tolist(), 2, confidence)) == []


NAMES = (
    "train/a,b/1.png",
    'train/"quoted"/1.png',
    "train/two\nlines\r/1.png",
    "train/猫 кот/\U0001f408.png",
    "=cmd|' /C calc'!A0",
    " spaces ",
    "-1+1",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_has_every_name_as_it_is(tmp_path: Path, name: str) -> None:
    """Also one that a spreadsheet would run: changed, it would not name the image any more."""
    path = tmp_path / "suspects.csv"
    write([Suspect("test", 0, name, label=0, suggested=1, score=0.01234)], (name, "b"), path)
    with path.open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert row == [name, "b", name, "0.0123", "test"]


def test_a_file_without_suspects_has_its_header(tmp_path: Path) -> None:
    write([], ("a", "b"), tmp_path / "suspects.csv")
    assert (tmp_path / "suspects.csv").read_text() == "file,label,was,score,split\n"

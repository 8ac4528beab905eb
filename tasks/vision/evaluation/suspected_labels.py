"""Images whose label is probably wrong: a model that did not learn from them is sure of another class.

Confident learning (Northcutt, Jiang and Chuang, JAIR 2021), by cleanlab. What is found is a list to look through, not a
correction: a person decides, and gives the edited file back to prepare (Param `corrections`).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from tasks.vision.data.gold import Split

FILE = "suspected_labels.csv"
COLUMNS = ("file", "label", "was", "score", "split")  # the first two are what prepare reads


@dataclass(frozen=True)
class Suspect:
    """One image of a split whose label is probably wrong.

    Attributes:
        split: `train`, `validation` or `test`.
        index: of the image in its split.
        name: of the image.
        label: the class that the data give it.
        suggested: the class that the model gives it.
        score: probability that the model gives to the label, 0..1; the lower, the more suspicious.
    """

    split: str
    index: int
    name: str
    label: int
    suggested: int
    score: float


def find(name: str, split: Split, probabilities: NDArray[np.float32]) -> list[Suspect]:
    """Find the images of a split whose label is probably wrong, the most suspicious first.

    Args:
        name: of the split.
        split: the images, with at least one.
        probabilities: [N, K], of a model that did not learn from these images.
    """
    labels = split.labels
    if len(np.unique(labels)) < 2:  # the method compares classes
        return []
    with warnings.catch_warnings():
        # It never calls all images of a class wrong, and warns where a class has few.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
        ranked = find_label_issues(
            labels,
            probabilities,
            filter_by="low_self_confidence",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    predicted = probabilities.argmax(1)
    return [
        Suspect(
            split=name,
            index=index,
            name=split.names[index],
            label=int(labels[index]),
            suggested=int(predicted[index]),
            score=float(probabilities[index, labels[index]]),
        )
        for index in np.asarray(ranked, dtype=np.int64).tolist()
        if predicted[index] != labels[index]
    ]


def rows(suspects: Sequence[Suspect], classes: Sequence[str]) -> Iterator[list[str]]:
    """Yield the values of `COLUMNS`: `label` is the suggestion, and `was` the label that the data give."""
    for one in suspects:
        yield [one.name, classes[one.suggested], classes[one.label], f"{one.score:.4f}", one.split]


def write(suspects: Sequence[Suspect], classes: Sequence[str], path: Path) -> None:
    """Write a CSV file with `COLUMNS` (see `rows`).

    Names are written as they are, also one that a spreadsheet would run as a formula (`=cmd|...`): with a character
    before it, prepare would no longer find the image.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows(suspects, classes))

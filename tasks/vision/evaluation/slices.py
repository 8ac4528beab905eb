"""Parts of the test images that are scored separately: by class, and by each value of each metadata column."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.contract.gate_policy import CLASS
from tasks.gate.evidence import Slice
from tasks.vision.data.gold import Split
from tasks.vision.evaluation.scoring import ClassScores

NO_VALUE = "(none)"
MAX_VALUES = 100  # of a metadata column; one with more identifies single images (a name, a time), not groups

log = logging.getLogger("tasks.evaluate")


def slices_of(
    test: Split, classes: Sequence[str], scores: ClassScores, correct: NDArray[np.bool_]
) -> tuple[Slice, ...]:
    """Return the test images of each class (one without any has no accuracy), and of each value of each column.

    Args:
        test: the N test images, with their metadata.
        classes: names of the K classes.
        scores: of the model on these images.
        correct: [N], whether the model classifies each image correctly.
    """
    slices = [
        Slice(column=CLASS, value=name, images=int(n), accuracy=float(recall) if n else None)
        for name, n, recall in zip(classes, scores.support, scores.recall, strict=True)
    ]
    for column, cells in test.columns.items():
        values = np.array([cell or NO_VALUE for cell in cells])
        different = np.unique(values)
        if len(different) > MAX_VALUES:
            log.warning("no slices by %r: %d different values, more than %d", column, len(different), MAX_VALUES)
            continue
        for value in different.tolist():
            answers = correct[values == value]
            slices.append(Slice(column=column, value=value, images=len(answers), accuracy=float(answers.mean())))
    return tuple(slices)

from __future__ import annotations

import numpy as np
import pytest

from tasks.vision.data.array_source import ArraySource, digits


def test_digits_have_the_same_digest_every_time() -> None:
    assert digits().digest() == digits().digest()


@pytest.mark.parametrize(
    "other",
    [
        ArraySource("x", np.ones((2, 8, 8), np.uint8), np.array([0, 1]), ["train", "train"], ("a", "b")),
        ArraySource("x", np.zeros((2, 8, 8), np.uint8), np.array([1, 0]), ["train", "train"], ("a", "b")),
        ArraySource("x", np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), ["train", "test"], ("a", "b")),
        ArraySource("x", np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), ["train", "train"], ("a", "c")),
        ArraySource("x", np.zeros((2, 4, 16), np.uint8), np.array([0, 1]), ["train", "train"], ("a", "b")),
    ],
)
def test_arrays_of_other_content_have_another_digest(other: ArraySource) -> None:
    one = ArraySource("x", np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), ["train", "train"], ("a", "b"))
    assert one.digest() != other.digest()

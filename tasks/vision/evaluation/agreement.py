"""Whether the form of a model that is served answers as the form that was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Largest difference of a probability. Kernels of different runtimes add in different orders: in float32 that makes
# differences of about 1e-6.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Both forms' answers to the same images, compared.

    Attributes:
        images: how many there were.
        changed: for how many the most probable class differs.
        largest: the largest difference of a probability.
    """

    images: int
    changed: int
    largest: float

    @classmethod
    def of(cls, served: NDArray[np.float32], trained: NDArray[np.float32]) -> Agreement:
        """Compare probabilities [N, K] with those of the other form."""
        changed = int((served.argmax(1) != trained.argmax(1)).sum())
        return cls(len(served), changed, float(np.abs(served - trained).max()))

    @property
    def holds(self) -> bool:
        """Whether no probability differs by more than the tolerance."""
        return self.largest <= TOLERANCE

    def __str__(self) -> str:
        if self.holds:
            return f"answers as trained on {self.images:,} images, within {self.largest:.1g}"
        return (
            f"answers otherwise than trained: {self.changed:,} of {self.images:,} images get another class, a "
            f"probability differs by {self.largest:.2g}, allowed {TOLERANCE:g}"
        )

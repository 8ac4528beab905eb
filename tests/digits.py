"""Real digits as gold, for tests that train: 8x8 pixels, ten classes, in the order of the data set."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from tasks.vision.data.gold import Gold, Split


def digits_as_gold(train: int = 200, validation: int = 60, test: int = 20) -> Gold:
    """Take so many digits for each split, one split after the other."""
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    labels = digits.target.astype(np.int64)

    def split(start: int, count: int) -> Split:
        chosen = slice(start, start + count)
        return Split(images[chosen], labels[chosen], tuple(str(i) for i in range(start, start + count)))

    return Gold(
        train=split(0, train),
        validation=split(train, validation),
        test=split(train + validation, test),
        classes=tuple("0123456789"),
        mean=(float(images.mean() / 255),),
        std=(float(images.std() / 255),),
        fingerprint="f" * 64,
        dataset="digits",
    )

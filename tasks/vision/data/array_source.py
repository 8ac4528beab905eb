"""Images that are in memory as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.records import Content, Entry, Listing


@dataclass
class ArraySource:
    """Images in memory: uint8 [N, H, W] or [N, H, W, 3], with labels into `classes` and the split of each."""

    dataset: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: list[str]
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return 1 if self.images.ndim == 3 else 3

    @property
    def side(self) -> int:
        """Side of the images as they are, in pixels."""
        return int(self.images.shape[1])

    @cached_property
    def listing(self) -> Listing:
        """One entry per image, named by its place in the source."""
        entries = {}
        for index, (split, label) in enumerate(zip(self.splits, self.labels.tolist(), strict=True)):
            name = self.classes[label]
            entries[str(index)] = Entry(f"{split}/{name}/{index:05d}", split, name)
        return Listing(len(entries), entries, (), tuple(sorted(self.classes)))

    def digest(self) -> str:
        """Return the SHA-256 of shapes, pixels, labels, splits and class names."""
        whole = hashlib.sha256(repr((self.images.shape, self.classes, self.splits)).encode())
        whole.update(np.ascontiguousarray(self.images).data)
        whole.update(np.ascontiguousarray(self.labels).data)
        return whole.hexdigest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images in order."""
        for entry, image in zip(self.listing.entries.values(), self.images, strict=True):
            yield entry, partial(_itself, image)


def _itself(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def digits(dataset: str = "digits") -> ArraySource:
    """Return scikit-learn's bundled handwritten digits: 1797 grey 8 x 8 images, 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits  # half a second, for this data set only

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    return ArraySource(dataset, images, labels, ["train"] * len(labels), tuple(str(i) for i in range(10)))

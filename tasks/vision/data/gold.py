"""Gold: the images for training and evaluation, split, with everything needed to train on them.

Written by `shards.writer` and read by `shards.reader`; `gold_tensors` reads what releases before shards wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError

SPLITS = ("train", "validation", "test")
WINDOW_BYTES = 4 * 2**30  # of images that are shuffled together: what is larger is read a window of shards at a time

Pixels = NDArray[np.uint8]


class Images(Protocol):
    """Images uint8 [N, C, H, W], 0..255: an array in memory, or `shards.images.ShardImages`, which reads from disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, index: Any) -> Pixels:
        """Return [C, H, W] at a position, or [B, C, H, W] at a slice or positions [B]."""


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        images: uint8 [N, C, H, W], 0..255.
        labels: int64 [N], indices into `Gold.classes`.
        names: where each image came from, such as `train/cat/0001.jpg`.
        columns: metadata, a value for each image by column ("" where nothing is known); only the test split has any.
        shards: the first image of each shard, and the number of all images; (): there are no shards.
    """

    images: Images
    labels: NDArray[np.int64]
    names: Sequence[str]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shards: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Gold:
    """Stratified splits with everything needed to train on them.

    Attributes:
        classes: class names, sorted; a label is an index into them.
        mean: mean of each channel over the train split, of pixels scaled to 0..1.
        std: standard deviation of the same, never 0.
        fingerprint: SHA-256 of the source's content and the settings that shaped these tensors.
        dataset: the data set's name.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    dataset: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes of all images and labels."""
        return sum(split.images.nbytes + split.labels.nbytes for split in self.splits.values())

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def check(gold: Gold, where: str) -> None:
    """Require that the parts of `gold` fit together; `where` names it in errors.

    Raises:
        DataError: shapes, types, labels, names or statistics do not.
    """
    if len(gold.classes) < 2 or list(gold.classes) != sorted(set(gold.classes)):
        raise damaged(where, f"classes {gold.classes!r} must be two or more different names, sorted")
    for name, split in gold.splits.items():
        images, labels = split.images, split.labels
        if images.dtype != np.uint8 or len(images.shape) != 4 or labels.dtype != np.int64 or labels.ndim != 1:
            raise damaged(
                where,
                f"{name} must be images uint8 [N, C, H, W] and labels int64 [N], "
                f"not {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}",
            )
        if not len(images) == len(labels) == len(split.names) > 0:
            raise damaged(where, f"{name} has {len(images)} images, {len(labels)} labels, {len(split.names)} names")
        for column, values in split.columns.items():
            if len(values) != len(labels) or not all(isinstance(value, str) for value in values):
                raise damaged(where, f"column {column!r} of {name} must be {len(labels)} texts")
        if labels.min() < 0 or labels.max() >= len(gold.classes):
            raise damaged(where, f"{name} has labels outside 0..{len(gold.classes) - 1}")
        if images.shape[1:] != gold.train.images.shape[1:]:
            raise damaged(where, f"{name} images are {images.shape[1:]}, train images {gold.train.images.shape[1:]}")
    if not len(gold.mean) == len(gold.std) == gold.shape[0] or not all(map(math.isfinite, gold.mean + gold.std)):
        raise damaged(where, f"mean {gold.mean} and std {gold.std} must be {gold.shape[0]} finite numbers each")
    if min(gold.std) <= 0:
        raise damaged(where, f"std {gold.std} must be over 0")


def damaged(where: str, cause: str) -> DataError:
    """Return the error that says what is wrong with gold."""
    return DataError(f"{where} cannot be used ({cause}); run prepare again")

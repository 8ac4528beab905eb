"""The gold layer: stratified splits as tensors, and the statistics of train."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.gold import SPLITS, WINDOW_BYTES, Gold, Images, Split
from tasks.vision.data.pixel_file import FiledImages, PixelFile
from tasks.vision.data.records import Entry, Record

AT_ONCE = 2**22  # pixels of a channel: bincount widens its input to 64 bits


def split(
    records: Iterable[Record],
    classes: Sequence[str],
    shaping: Shaping,
    fingerprint: str,
    *,
    has_test: bool,
    has_validation: bool = False,
    columns: Sequence[str] = (),
) -> Gold:
    """Split the images class by class and stack them.

    Which split an image goes to follows from its content hash and the seed, so that it stays there when others are
    added or files are renamed. Of the n training images of a class, round(n * fraction) go to
    validation, but at least one, and likewise to test, unless the source has such a set (`has_validation`, `has_test`).

    The test images keep their metadata, in the order of `columns`: the gate judges their slices.

    Args:
        records: the images fit to train on, in the order of their names.
        classes: class names, sorted.
        shaping: the fractions and the seed.
        fingerprint: of the gold.
        has_test: whether the source has a test set of its own.
        has_validation: likewise.
        columns: names of the metadata columns.

    Raises:
        DataError: a class has too few images left for one in each split.
    """
    usable = _Usable.of(records, classes, shaping.seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
    for label, (train, validations, tests) in zip(classes, usable.by_class(len(classes)), strict=True):
        given = usable.drawn(train)
        validation = 0 if has_validation else max(1, round(len(given) * shaping.validation_fraction))
        split_off = 0 if has_test else max(1, round(len(given) * shaping.test_fraction))
        lacks = (has_test and not len(tests)) or (has_validation and not len(validations))
        if len(given) - validation - split_off < 1 or lacks:
            held = f"{len(validations)} validation and " if has_validation else ""
            raise DataError(
                f"class {label!r} has {len(given)} usable training and {held}{len(tests)} test images, too few for one "
                "in each of train, validation and test; add images (removed.csv says which were left out) or remove it"
            )
        parts["validation"].append(validations if len(validations) else given[:validation])
        parts["test"].append(tests if len(tests) else given[validation : validation + split_off])
        parts["train"].append(given[validation + split_off :])
    images = {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
    if len(images["train"]) * shaping.channels * shaping.size**2 > WINDOW_BYTES:
        # Training reads some shards at a time, and each has to hold all classes. Fewer images stay in the order of
        # their names, so that earlier trainings are repeated.
        images["train"] = usable.drawn(images["train"])
    splits = {name: usable.stack(part, columns if name == "test" else ()) for name, part in images.items()}
    mean, std = statistics(splits["train"].images)
    return Gold(**splits, classes=tuple(classes), mean=mean, std=std, fingerprint=fingerprint, dataset=shaping.dataset)


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images, of pixels scaled to 0..1.

    They come from counts of the 256 values: exact, hence the same on every machine. A channel without contrast gets
    a deviation of one grey level, since pixels are divided by it.
    """
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    step = max(1, AT_ONCE // math.prod(images.shape[2:]))
    for start in range(0, len(images), step):
        part = images[start : start + step]
        for channel, count in enumerate(counts):
            count += np.bincount(part[:, channel].ravel(), minlength=256)
    means, stds = [], []
    for count in counts:
        mean = float(count @ values / count.sum())
        variance = float(count @ (values - mean) ** 2 / count.sum())
        means.append(mean)
        stds.append(max(variance**0.5, 1 / 255))
    return tuple(means), tuple(stds)


@dataclass(frozen=True)
class _Usable:
    """What gold needs to know of N images, in the order of their names: about 60 bytes each.

    Attributes:
        file: of their pixels, in which `positions` [N] are; None: there are no images.
        entries: of the source's listing.
        labels: index of the class [N].
        split: index in SPLITS of the split that the source has the image in [N].
        draws: digests that decide between the splits, uint64 [N, 4].
    """

    file: PixelFile | None
    entries: Sequence[Entry]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    split: NDArray[np.int8]
    draws: NDArray[np.uint64]

    @classmethod
    def of(cls, records: Iterable[Record], classes: Sequence[str], seed: int) -> Self:
        index = {label: number for number, label in enumerate(classes)}
        entries: list[Entry] = []
        positions, labels, split, draws = array("q"), array("q"), array("b"), bytearray()
        file = None
        for record in records:
            assert record.pixels is not None  # noqa: S101  # silver leaves out those without
            file = record.pixels.file
            entries.append(record.entry)
            positions.append(record.pixels.position)
            labels.append(index[record.entry.label])
            split.append(SPLITS.index(record.entry.split))
            draws += hashlib.sha256(f"{seed}:{record.sha256}".encode()).digest()
        return cls(
            file,
            entries,
            np.frombuffer(positions, np.int64),
            np.frombuffer(labels, np.int64),
            np.frombuffer(split, np.int8),
            np.frombuffer(draws, ">u8").reshape(-1, 4),
        )

    def by_class(self, classes: int) -> list[list[NDArray[np.int64]]]:
        """Return the images of each class that the source has in train, validation and test."""
        keys = self.labels * len(SPLITS) + self.split
        ends = np.cumsum(np.bincount(keys, minlength=classes * len(SPLITS)))
        groups = np.split(keys.argsort(kind="stable"), ends[:-1])
        return [groups[start : start + len(SPLITS)] for start in range(0, len(groups), len(SPLITS))]

    def drawn(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return images in the order of their draws."""
        return images[np.lexsort(self.draws[images].T[::-1])]

    def stack(self, images: NDArray[np.int64], columns: Sequence[str]) -> Split:
        assert self.file is not None  # noqa: S101  # each class has images
        entries = [self.entries[image] for image in images]
        return Split(
            images=FiledImages(self.file, self.positions[images]),
            labels=self.labels[images],
            names=tuple(entry.name for entry in entries),
            columns={name: tuple(e.metadata[number] for e in entries) for number, name in enumerate(columns)},
        )

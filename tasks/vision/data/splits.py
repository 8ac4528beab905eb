"""The gold layer: stratified splits as tensors, and the statistics of train."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tasks.errors import DataError
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.gold import WINDOW_BYTES, Gold, Images, Split
from tasks.vision.data.pixel_file import FiledImages
from tasks.vision.data.records import Record

AT_ONCE = 2**22  # pixels of a channel: bincount widens its input to 64 bits


def split(
    records: Sequence[Record],
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

    Raises:
        DataError: a class has too few images left for one in each split.
    """

    def drawn(record: Record) -> bytes:
        return hashlib.sha256(f"{shaping.seed}:{record.sha256}".encode()).digest()

    parts: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    members: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        members[record.entry.label, record.entry.split].append(record)
    for label in classes:
        tests, validations = members[label, "test"], members[label, "validation"]
        given = sorted(members[label, "train"], key=drawn)
        validation = 0 if has_validation else max(1, round(len(given) * shaping.validation_fraction))
        split_off = 0 if has_test else max(1, round(len(given) * shaping.test_fraction))
        lacks = (has_test and not tests) or (has_validation and not validations)
        if len(given) - validation - split_off < 1 or lacks:
            held = f"{len(validations)} validation and " if has_validation else ""
            raise DataError(
                f"class {label!r} has {len(given)} usable training and {held}{len(tests)} test images, too few for one "
                "in each of train, validation and test; add images (removed.csv says which were left out) or remove it"
            )
        parts["validation"] += validations or given[:validation]
        parts["test"] += tests or given[validation : validation + split_off]
        parts["train"] += given[validation + split_off :]
    for part in parts.values():
        part.sort(key=lambda record: record.entry.name)
    if len(parts["train"]) * shaping.channels * shaping.size**2 > WINDOW_BYTES:
        # Training reads some shards at a time, and each has to hold all classes. Fewer images stay in the order of
        # their names, so that earlier trainings are repeated.
        parts["train"].sort(key=drawn)
    splits = {name: _stack(part, classes, columns if name == "test" else ()) for name, part in parts.items()}
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


def _stack(records: list[Record], classes: Sequence[str], columns: Sequence[str]) -> Split:
    index = {label: number for number, label in enumerate(classes)}
    return Split(
        images=FiledImages([record.pixels for record in records if record.pixels is not None]),
        labels=np.array([index[record.entry.label] for record in records], dtype=np.int64),
        names=tuple(record.entry.name for record in records),
        columns={name: tuple(r.entry.metadata[number] for r in records) for number, name in enumerate(columns)},
    )

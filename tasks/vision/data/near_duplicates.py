"""Near-duplicates: test images that were learned from too, in another crop, size, compression, colour or mirrored.

Silver removes copies with exactly the same pixels. What remains makes the test accuracy too good: of CIFAR-10's test
images 3.3 % have such a copy in train (Barz and Denzler 2020, "ciFAIR"). They are reported, and a person decides.

Candidates are found by their perceptual hashes (pHash, Zauner 2010, by imagehash) and confirmed by the edges of small
grey thumbnails. From both thumbnails the average of the class is subtracted first, so that not everything counts as
equal that is alike in the whole class, such as a horizon or the same part of a body.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Images
from tasks.vision.data.pixel_file import PixelFile

# A hash says little about an image with fewer pixels than it looks at (32 x 32).
MIN_SIDE = 32
THUMBNAIL = 16
# Set by looking at pairs of CIFAR-10: of the 132 found in 5,000 test images, 129 show the same picture.
MAX_DISTANCE, MIN_SIMILARITY = 10, 0.75
# Drawings such as digits are alike by nature. Where over a tenth of the test images seem to have copies, only those
# count that hardly differ: no two digits do so, but frames of a film do.
ALIKE_SHARE, ALIKE_SIMILARITY = 0.1, 0.95
CANDIDATES = 20  # for each test image, those with the nearest hashes
FLAT = 2.0  # standard deviation of grey levels; below it, a hash is made of noise
PRIOR_IMAGES = 10  # of zeros, in the average of a class: few images must not be subtracted from themselves
PAIRS_AT_ONCE = 2**22
AVERAGED_AT_ONCE = 2**14
BATCH_BYTES = 16 * 2**20  # of the images that a thread looks at
COLUMNS = ("test_image", "class", "other_image", "other_split", "other_class", "distance", "similarity", "mirrored")


@dataclass(frozen=True)
class Pair:
    """A test image and a near-duplicate of it.

    Attributes:
        test: index in the test split.
        split: `train` or `validation`.
        other: index in that split.
        distance: bits in which the hashes differ, 0..64.
        similarity: correlation of the edges, 0..1.
        mirrored: whether one is the other's mirror image.
    """

    test: int
    split: str
    other: int
    distance: int
    similarity: float
    mirrored: bool


class _Thumbnails:
    """Thumbnails float32 [N, T, T] of mean 0 and norm 1, in a file; those of flat images are 0."""

    def __init__(self) -> None:
        self._file = PixelFile((1, THUMBNAIL, THUMBNAIL * np.dtype(np.float32).itemsize))

    def extend(self, thumbnails: NDArray[np.float32]) -> None:
        """Add some."""
        self._file.extend(thumbnails.view(np.uint8)[:, np.newaxis])

    def __getitem__(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return those at positions [B], as [B, T, T]."""
        different, places = np.unique(images, return_inverse=True)
        found: NDArray[np.float32] = self._file.read(different).view(np.float32)[places, 0]
        return found


@dataclass(frozen=True)
class _Prints:
    """What images are compared by: `hashes` uint64 [N], and thumbnails."""

    hashes: NDArray[np.uint64]
    thumbnails: _Thumbnails


def find(gold: Gold) -> list[Pair]:
    """Find the near-duplicates of test images in train and validation, the nearest first.

    Images of under `MIN_SIDE` pixels are not compared.
    """
    if min(gold.shape[1:]) < MIN_SIDE:
        return []
    others = _prints([gold.train.images, gold.validation.images])
    averages = _averages(others.thumbnails, gold.train.labels, len(gold.classes))
    pairs = []
    for mirrored in (False, True):
        centres = averages[..., ::-1] if mirrored else averages
        tests = _prints([gold.test.images], mirrored=mirrored)
        for test, other, distance, similarity in _alike(tests, others, centres, gold.test.labels):
            split, index = ("train", other) if other < len(gold.train) else ("validation", other - len(gold.train))
            pairs.append(Pair(test, split, index, distance, similarity, mirrored))
    if len({pair.test for pair in pairs}) > ALIKE_SHARE * len(gold.test):
        pairs = [pair for pair in pairs if pair.similarity >= ALIKE_SIMILARITY]
    return sorted(pairs, key=lambda pair: (pair.distance, -pair.similarity, pair.test, pair.split, pair.other))


def nearest(pairs: Sequence[Pair]) -> list[Pair]:
    """Return one pair for each test image, its nearest; `pairs` are sorted."""
    first: dict[int, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.test, pair)
    return list(first.values())


def write(pairs: Sequence[Pair], gold: Gold, path: Path) -> None:
    """Write the pairs as a CSV file with `COLUMNS`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for pair in pairs:
            other = gold.splits[pair.split]
            writer.writerow(
                [
                    gold.test.names[pair.test],
                    gold.classes[gold.test.labels[pair.test]],
                    other.names[pair.other],
                    pair.split,
                    gold.classes[other.labels[pair.other]],
                    pair.distance,
                    f"{pair.similarity:.3f}",
                    "yes" if pair.mirrored else "no",
                ]
            )


def _prints(splits: Sequence[Images], *, mirrored: bool = False) -> _Prints:
    """Take the prints of the images [N, C, S, S] of splits, or of their mirror images, a batch in each thread."""
    hashes, thumbnails = [], _Thumbnails()
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="hash") as pool:
        for images in splits:
            step = max(1, BATCH_BYTES // math.prod(images.shape[1:]))

            def batch(
                start: int, images: Images = images, step: int = step
            ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
                found = images[start : start + step]
                return _batch(found[..., ::-1] if mirrored else found)

            for part, small in pool.map(batch, range(0, len(images), step)):
                hashes.append(part)
                thumbnails.extend(small)
    return _Prints(np.concatenate(hashes), thumbnails)


def _batch(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the hashes and the thumbnails of images."""
    import imagehash

    hashes = np.empty(len(images), np.uint64)
    thumbnails = np.empty((len(images), THUMBNAIL, THUMBNAIL), np.float32)
    for index, image in enumerate(images):
        channels = [Image.fromarray(channel) for channel in image]
        grey = channels[0] if len(channels) == 1 else Image.merge("RGB", channels).convert("L")
        # What pHash would do itself, but in two steps where the image is large.
        small = grey.resize((MIN_SIDE, MIN_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        hashes[index] = np.packbits(imagehash.phash(small).hash).view(np.uint64)[0]
        thumbnails[index] = np.asarray(small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    flat = thumbnails.std((1, 2)) < FLAT
    thumbnails -= thumbnails.mean((1, 2), keepdims=True)
    thumbnails[flat] = 0
    norms = np.linalg.norm(thumbnails, axis=(1, 2), keepdims=True)
    return hashes, thumbnails / np.maximum(norms, 1e-6)


def _averages(thumbnails: _Thumbnails, labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return the average thumbnail of each class, [K, T, T], of the first images, whose labels these are."""
    sums = np.zeros((classes, THUMBNAIL, THUMBNAIL), np.float32)
    for start in range(0, len(labels), AVERAGED_AT_ONCE):
        part = labels[start : start + AVERAGED_AT_ONCE]
        np.add.at(sums, part, thumbnails[np.arange(start, start + len(part))])
    counts = np.bincount(labels, minlength=classes) + PRIOR_IMAGES
    return (sums / counts[:, None, None]).astype(np.float32)


def _alike(
    tests: _Prints, others: _Prints, averages: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[tuple[int, int, int, float]]:
    """Return test image, other image, distance and similarity of all that are alike.

    Args:
        tests: the prints of the test images.
        others: those that they are compared with.
        averages: thumbnail of each class [K, T, T].
        labels: classes of the test images.
    """
    step = max(1, PAIRS_AT_ONCE // len(others.hashes))
    starts = range(0, len(tests.hashes), step)

    def compare(start: int) -> list[tuple[int, int, int, float]]:
        distances = np.bitwise_count(tests.hashes[start : start + step, None] ^ others.hashes[None])
        rows, columns = np.nonzero(distances <= MAX_DISTANCE)
        found = distances[rows, columns]
        order = np.lexsort((found, rows))
        rows, columns, found = rows[order], columns[order], found[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # within the row, the nearest first
        rows, columns, found = (part[rank < CANDIDATES] for part in (rows, columns, found))
        rows += start
        mine, theirs, centres = tests.thumbnails[rows], others.thumbnails[columns], averages[labels[rows]]
        similarities = np.einsum("nd,nd->n", _edges(mine - centres), _edges(theirs - centres))
        # Less its average, a flat image would be the negative of it, like any other.
        flat = ~(mine.any((1, 2)) & theirs.any((1, 2)))
        same = (similarities >= MIN_SIMILARITY) & ~flat
        return [
            (int(row), int(column), int(distance), float(similarity))
            for row, column, distance, similarity in zip(
                rows[same], columns[same], found[same], similarities[same], strict=True
            )
        ]

    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="compare") as pool:
        return [pair for part in pool.map(compare, starts) for pair in part]


def _edges(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the differences between neighbouring pixels of [N, T, T], as vectors [N, D] of length 1."""
    across, down = np.diff(thumbnails, axis=2)[:, :-1], np.diff(thumbnails, axis=1)[:, :, :-1]
    edges = np.stack([across, down], 1).reshape(len(thumbnails), 2 * (THUMBNAIL - 1) ** 2)
    norms = np.linalg.norm(edges, axis=1, keepdims=True)
    return np.asarray(edges / np.maximum(norms, 1e-6), dtype=np.float32)

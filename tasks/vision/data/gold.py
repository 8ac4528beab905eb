"""Gold: the tensors for training and evaluation, and their format on disk.

    FOLDER/gold.safetensors   {train,validation,test}.{images,labels}
    FOLDER/gold.json          format, dataset, fingerprint, classes, mean, std, image names, metadata of test images

The same gold is always written as the same bytes, so that two runs can be compared by their files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tasks.errors import DataError

TENSORS = "gold.safetensors"
DESCRIPTION = "gold.json"
FORMAT = 1
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        images: uint8 [N, C, H, W], 0..255.
        labels: int64 [N], indices into `Gold.classes`.
        names: where each image came from, such as `train/cat/0001.jpg`.
        columns: metadata, a value for each image by column ("" where nothing is known); only the test split has any.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes of all images and labels."""
        return sum(split.images.nbytes + split.labels.nbytes for split in self.splits.values())

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def save(gold: Gold, folder: Path) -> None:
    """Write `gold` to `folder`, which is made when missing.

    Raises:
        DataError: the tensors do not fit together (see `load`); nothing is written.
    """
    _check(gold, folder)
    tensors: dict[str, NDArray[Any]] = {}
    for name, split in gold.splits.items():
        # safetensors writes memory in the order it has, so a transposed view would be saved scrambled.
        tensors[f"{name}.images"] = np.ascontiguousarray(split.images)
        tensors[f"{name}.labels"] = np.ascontiguousarray(split.labels)
    description = {
        "format": FORMAT,
        "dataset": gold.dataset,
        "fingerprint": gold.fingerprint,
        "classes": gold.classes,
        "mean": gold.mean,
        "std": gold.std,
        "names": {name: split.names for name, split in gold.splits.items()},
    }
    if gold.test.columns:  # without metadata, the same bytes as in releases that had none
        description["columns"] = dict(gold.test.columns)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / TENSORS).chmod(0o644)  # safetensors makes it private; the next stage may run as another user
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path) -> Gold:
    """Read what `save` wrote.

    Raises:
        DataError: a file is missing, damaged or of another format, or shapes, types, labels, names or statistics do
            not fit together.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        if description["format"] != FORMAT:
            raise _damaged(folder, f"its format is {description['format']!r}, not {FORMAT}")
        splits = {
            name: Split(tensors[f"{name}.images"], tensors[f"{name}.labels"], tuple(description["names"][name]))
            for name in SPLITS
        }
        columns = {name: tuple(values) for name, values in description.get("columns", {}).items()}
        splits["test"] = replace(splits["test"], columns=columns)
        gold = Gold(
            **splits,
            classes=tuple(description["classes"]),
            mean=tuple(map(float, description["mean"])),
            std=tuple(map(float, description["std"])),
            fingerprint=description["fingerprint"],
            dataset=description["dataset"],
        )
    except (OSError, AttributeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    _check(gold, folder)
    return gold


def _check(gold: Gold, folder: Path) -> None:
    """Raise DataError where the parts of `gold` do not fit together."""
    if len(gold.classes) < 2 or list(gold.classes) != sorted(set(gold.classes)):
        raise _damaged(folder, f"classes {gold.classes!r} must be two or more different names, sorted")
    for name, split in gold.splits.items():
        images, labels = split.images, split.labels
        if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.ndim != 1:
            raise _damaged(
                folder,
                f"{name} must be images uint8 [N, C, H, W] and labels int64 [N], "
                f"not {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}",
            )
        if not len(images) == len(labels) == len(split.names) > 0:
            raise _damaged(folder, f"{name} has {len(images)} images, {len(labels)} labels, {len(split.names)} names")
        for column, values in split.columns.items():
            if len(values) != len(labels) or not all(isinstance(value, str) for value in values):
                raise _damaged(folder, f"column {column!r} of {name} must be {len(labels)} texts")
        if labels.min() < 0 or labels.max() >= len(gold.classes):
            raise _damaged(folder, f"{name} has labels outside 0..{len(gold.classes) - 1}")
        if images.shape[1:] != gold.train.images.shape[1:]:
            raise _damaged(folder, f"{name} images are {images.shape[1:]}, train images {gold.train.images.shape[1:]}")
    if not len(gold.mean) == len(gold.std) == gold.shape[0] or not all(map(math.isfinite, gold.mean + gold.std)):
        raise _damaged(folder, f"mean {gold.mean} and std {gold.std} must be {gold.shape[0]} finite numbers each")
    if min(gold.std) <= 0:
        raise _damaged(folder, f"std {gold.std} must be over 0")


def _damaged(folder: Path, cause: str) -> DataError:
    return DataError(f"gold in {folder} cannot be used ({cause}); run prepare again")

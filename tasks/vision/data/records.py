"""What the layers pass to each other: where an image lies, what was read of it, and why one was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tasks.vision.data.pixel_file import FiledImage

Content = bytes | NDArray[np.uint8]
"""One image as a source gives it: an encoded file, or pixels [H, W] or [H, W, 3]."""


def bytes_of(content: Content) -> int:
    """Return how many bytes an image takes, as it is given."""
    return len(content) if isinstance(content, bytes) else content.nbytes


class Reason(StrEnum):
    """Why a file is not part of gold."""

    HIDDEN = "hidden file"
    OUTSIDE = "outside the layout"
    COPY = "in a second copy of the data set"
    NO_LABEL = "without a label"
    UNLABELLED = "in a held-out folder without labels"
    LINK = "link that leads to no file of the source"
    UNSUPPORTED = "unsupported file type"
    UNREADABLE = "unreadable"
    WRONG_SIZE = "wrong size"
    CONFLICT = "same image under different classes"
    LEAK = "also in test"
    VALIDATION_LEAK = "also in validation"
    DUPLICATE = "duplicate"
    CORRECTED = "left out by corrections"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source: `name` is its path inside it, `split` is `train`, `validation` or `test`.

    `metadata` holds its value in each of `Listing.columns`.
    """

    name: str
    split: str
    label: str
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """One file that is not part of gold; `split` and `label` are empty where it lies outside the layout."""

    name: str
    split: str
    label: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """The raw layer: the files of a source, before any image is read.

    Attributes:
        files: number of files found; of a Parquet file with images, its rows.
        entries: the images, by their name as the source knows it.
        removals: the files that are not images of the data set.
        classes: class names, sorted.
        columns: names of the metadata columns.
        layout: how the source was understood, in words.
        notes: what else a reader should know of it, such as a test folder without labels.
        tables: the column with the images of every Parquet file, by its name in the source.
        junk: files of operating systems and tools, which are counted nowhere else.
    """

    files: int
    entries: dict[str, Entry]
    removals: tuple[Removal, ...]
    classes: tuple[str, ...]
    columns: tuple[str, ...] = ()
    layout: str = ""
    notes: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    junk: int = 0

    @property
    def has_test(self) -> bool:
        """Whether the source brings a test set of its own."""
        return any(entry.split == "test" for entry in self.entries.values())

    @property
    def has_validation(self) -> bool:
        """Whether the source brings a validation set of its own."""
        return any(entry.split == "validation" for entry in self.entries.values())


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the bronze layer, as read.

    Attributes:
        sha256: hex digest of the encoded file, or of the raw pixels where there is no file; "" if it cannot be read.
        size: number of bytes that `sha256` is the digest of.
        width: width in pixels as declared, 0 if unknown; likewise `height`.
        pixels: uint8 [C, S, S], in a file; None when `fault` says why there are none.
        fault: UNREADABLE or WRONG_SIZE, and `detail` in words.
        pixels_sha256: digest of the pixels; b"" when there are none.
    """

    entry: Entry
    sha256: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    pixels: FiledImage | None = None
    fault: Reason | None = None
    detail: str = ""
    pixels_sha256: bytes = b""

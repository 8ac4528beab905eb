"""What is in gold: `gold.json`, and from it the names and sizes of all other files.

    gold.json                          format, data set, classes, statistics; images and SHA-256 of every other file
    train-index.safetensors            label, name, SHA-256 and metadata of every image, in order (`index`)
    train-00000-of-00002.npy, ...      pixels, uint8 [N, C, H, W], the next N images of that order each

and the same for `validation` and `test`. Image i of a shard begins at HEADER_BYTES + i * C * H * W, so no offsets are
stored. Names follow from the description, which names no files: it can lead nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.vision.data.gold import SPLITS, damaged

FORMAT: Final = 2
DESCRIPTION = "gold.json"
DESCRIPTION_BYTES = 256 * 2**20  # at most; the shards of 100 million images of 224 pixels take 10 MB
HEADER_BYTES = 128  # of a .npy file
MAX_CHANNELS, MAX_SIDE = 4, 8192

Count = Annotated[int, Field(ge=0, le=2**40)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shard(_Part):
    """One file of pixels."""

    images: Annotated[Count, Field(gt=0)]
    sha256: Digest


class SplitFiles(_Part):
    """The files of one split, and how many images of each class it has."""

    per_class: tuple[Count, ...]
    columns: tuple[str, ...] = ()
    index_sha256: Digest
    shards: tuple[Shard, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(shard.images for shard in self.shards)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if sum(self.per_class) != self.images:
            raise ValueError(f"{sum(self.per_class)} images by class, and {self.images} in shards")
        return self


class Description(_Part):
    """`gold.json`."""

    format: Literal[2] = FORMAT
    dataset: str
    fingerprint: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[
        Annotated[int, Field(ge=1, le=MAX_CHANNELS)],
        Annotated[int, Field(ge=1, le=MAX_SIDE)],
        Annotated[int, Field(ge=1, le=MAX_SIDE)],
    ]
    splits: dict[str, SplitFiles]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.splits) != {*SPLITS}:
            raise ValueError(f"splits {sorted(self.splits)}, not {sorted(SPLITS)}")
        if any(len(split.per_class) != len(self.classes) for split in self.splits.values()):
            raise ValueError(f"a split has not {len(self.classes)} classes")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return sum(split.images for split in self.splits.values()) * math.prod(self.shape)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield name and SHA-256 of every other file."""
        for name, split in self.splits.items():
            yield index_name(name), split.index_sha256
            for number, shard in enumerate(split.shards):
                yield shard_name(name, number, len(split.shards)), shard.sha256

    def text(self) -> str:
        """Return it as JSON, the same text for the same gold."""
        return self.model_dump_json(exclude_defaults=False) + "\n"


def parse(text: bytes, where: str) -> Description:
    """Read `gold.json`.

    Raises:
        DataError: it is damaged, of another format, or its counts do not fit together.
    """
    if len(text) > DESCRIPTION_BYTES:
        raise damaged(where, f"{DESCRIPTION} has {len(text)} bytes, over {DESCRIPTION_BYTES}")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(where, f"{DESCRIPTION}: {place}: {first['msg']}") from None


def complete(names: Collection[str]) -> bool:
    """Tell by the names in a folder whether it holds the description, every index and every shard.

    An earlier try on other images may have left shards of another total, which nothing reads.
    """
    shards = {split: re.compile(rf"{split}-[0-9]{{5,}}-of-([0-9]{{5,}})\.npy") for split in SPLITS}
    for split, pattern in shards.items():
        totals = {int(found[1]) for name in names if (found := pattern.fullmatch(name))}
        possible = (total for total in totals if 0 < total <= len(names))
        wanted = ({shard_name(split, number, total) for number in range(total)} for total in possible)
        if index_name(split) not in names or not any(files <= {*names} for files in wanted):
            return False
    return DESCRIPTION in names


def index_name(split: str) -> str:
    """Return the file name of the index of a split."""
    return f"{split}-index.safetensors"


def shard_name(split: str, number: int, shards: int) -> str:
    """Return the file name of a shard, as in `train-00000-of-00002.npy`: names tell whether one is missing."""
    return f"{split}-{number:05d}-of-{shards:05d}.npy"

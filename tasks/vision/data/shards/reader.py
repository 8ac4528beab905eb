"""Reads gold in shards: into memory where it fits, else image by image from a bounded folder."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.vision.data.gold import SPLITS, WINDOW_BYTES, Gold, Split, check, damaged
from tasks.vision.data.shards.cache import Fetch, ShardCache, Stored, require
from tasks.vision.data.shards.description import (
    HEADER_BYTES,
    Description,
    index_name,
    shard_name,
)
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.data.shards.index import Index
from tasks.vision.disk import room

LOADING_BYTES = 2**30  # of shards on disk while all of them go into memory


def read(
    description: Description,
    fetch: Fetch,
    *,
    most_memory: int | None = None,
    most_disk: int | None = None,
    where: str,
    fix: str,
) -> Gold:
    """Open gold.

    Args:
        description: what it holds.
        fetch: gets one of its files from where it is stored.
        most_memory: if its pixels have more bytes, they stay on disk; None: never.
        most_disk: bytes that shards may take there; None: half of what is free.
        where: names the gold in errors.
        fix: what to do if it was changed, for errors.

    Raises:
        ChangedError: a file is not what was stored.
        DataError: a file is missing or damaged, or its parts do not fit together.
        SettingsError: `most_disk` is too little.
    """
    whole = most_memory is None or description.nbytes <= most_memory
    stored = _shards(description)
    total = sum(shard.size for shard in stored.values())
    # The images of a window are read in random order, while the shards of the next one are fetched.
    needed = min(total, 2 * (WINDOW_BYTES + max((shard.size for shard in stored.values()), default=0)))
    cache = ShardCache(fetch, stored, LOADING_BYTES if whole else room(needed, most_disk, where), where, fix)
    try:
        gold = Gold(
            **{name: _split(name, description, fetch, cache, where, fix) for name in SPLITS},
            classes=description.classes,
            mean=description.mean,
            std=description.std,
            fingerprint=description.fingerprint,
            dataset=description.dataset,
        )
        check(gold, where)
        if not whole:
            return gold
        train, validation, test = (_in_memory(split) for split in gold.splits.values())
    except BaseException:
        cache.close()
        raise
    cache.close()
    return replace(gold, train=train, validation=validation, test=test)


def _in_memory(split: Split) -> Split:
    assert isinstance(split.images, ShardImages)  # noqa: S101  # what `_split` makes
    return replace(split, images=split.images.in_memory())


def _shards(description: Description) -> dict[str, Stored]:
    """Return bytes and SHA-256 of every shard by its name."""
    each = math.prod(description.shape)
    return {
        shard_name(name, number, len(split.shards)): Stored(HEADER_BYTES + shard.images * each, shard.sha256)
        for name, split in description.splits.items()
        for number, shard in enumerate(split.shards)
    }


def _split(name: str, description: Description, fetch: Fetch, cache: ShardCache, where: str, fix: str) -> Split:
    files = description.splits[name]
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        path = fetch(index_name(name), Path(folder))
        require(path, files.index_sha256, where, fix)
        index = Index(path, files.images, files.columns, where)
    if np.bincount(index.labels.clip(0), minlength=len(files.per_class)).tolist() != list(files.per_class):
        raise damaged(where, f"{path.name} has other labels than the description")
    images = ShardImages(cache, name, files, description.shape)
    return Split(images, index.labels, index.names, index.columns, tuple(images.starts.tolist()))

"""A few images of noise as gold, and gold in a folder as a store of files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.gold_tensors import TENSORS
from tasks.vision.data.shards import reader
from tasks.vision.data.shards.cache import Fetch
from tasks.vision.data.shards.description import DESCRIPTION, parse


def small_split(count: int, prefix: str, columns: Mapping[str, tuple[str, ...]] | None = None) -> Split:
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    names = tuple(f"{prefix}/{i}.png" for i in range(count))
    return Split(images, np.arange(count, dtype=np.int64) % 2, names, columns or {})


def small_gold(columns: Mapping[str, tuple[str, ...]] | None = None, train: int = 4) -> Gold:
    return Gold(
        train=small_split(train, "train"),
        validation=small_split(2, "val"),
        test=small_split(3, "test", columns),
        classes=("cat", "dög"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        fingerprint="f" * 64,
        dataset="pets",
    )


def save_as_earlier_releases(gold: Gold, folder: Path) -> None:
    """Write gold as releases before shards did, in place of what is in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = {f"{name}.images": np.asarray(split.images) for name, split in gold.splits.items()}
    save_file(parts | {f"{name}.labels": split.labels for name, split in gold.splits.items()}, folder / TENSORS)
    about = {name: getattr(gold, name) for name in ("dataset", "fingerprint", "classes", "mean", "std")}
    names = {name: list(split.names) for name, split in gold.splits.items()}
    columns = {"columns": dict(gold.test.columns)} if gold.test.columns else {}
    (folder / DESCRIPTION).write_text(json.dumps({"format": 1, **about, "names": names, **columns}))


def copying(folder: Path) -> Fetch:
    """Get files from a folder."""
    return lambda name, target: Path(shutil.copy(folder / name, target / name))


def read(folder: Path, most_memory: int | None = None, most_disk: int | None = None) -> Gold:
    """Read gold that lies in a folder."""
    description = parse((folder / DESCRIPTION).read_bytes(), "gold of run r")
    return reader.read(
        description, copying(folder), most_memory=most_memory, most_disk=most_disk, where="gold of run r", fix="fix it"
    )

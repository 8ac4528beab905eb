"""Gold as releases before shards wrote it: all images in one file, and the rest in another.

FOLDER/gold.safetensors   {train,validation,test}.{images,labels}
FOLDER/gold.json          format, dataset, fingerprint, classes, mean, std, image names, metadata of test images
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from tasks.vision.data.gold import SPLITS, Gold, Split, check, damaged

TENSORS = "gold.safetensors"
DESCRIPTION = "gold.json"
FORMAT = 1


def load(folder: Path) -> Gold:
    """Read all of it into memory.

    Raises:
        DataError: a file is missing, damaged or of another format, or shapes, types, labels, names or statistics do
            not fit together.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        if description["format"] != FORMAT:
            raise damaged(f"gold in {folder}", f"its format is {description['format']!r}, not {FORMAT}")
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
        raise damaged(f"gold in {folder}", f"{type(error).__name__}: {error}") from error
    check(gold, f"gold in {folder}")
    return gold

"""Gold of releases before shards: `earlier_gold` is what the writer of v0.9 made of `tests.small_gold.small_gold`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.vision.data import gold_tensors
from tasks.vision.data.gold_tensors import DESCRIPTION, TENSORS
from tests.small_gold import small_gold

EARLIER = Path(__file__).with_name("earlier_gold")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "gold"))


def test_gold_of_earlier_releases_is_read() -> None:
    loaded, expected = gold_tensors.load(EARLIER), small_gold({"light": ("sun", "", "lamp")})
    for name, split in expected.splits.items():
        np.testing.assert_array_equal(loaded.splits[name].images, split.images)
        np.testing.assert_array_equal(loaded.splits[name].labels, split.labels)
        assert tuple(loaded.splits[name].names) == split.names
        assert loaded.splits[name].columns == split.columns
    assert (loaded.classes, loaded.mean, loaded.std) == (expected.classes, expected.mean, expected.std)
    assert (loaded.fingerprint, loaded.dataset) == (expected.fingerprint, expected.dataset)


@pytest.mark.parametrize("file", [TENSORS, DESCRIPTION])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(DataError, match=file):
        gold_tensors.load(folder)


@pytest.mark.parametrize("file", [TENSORS, DESCRIPTION])
def test_a_file_cut_short_is_refused(folder: Path, file: str) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be used"):
        gold_tensors.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"classes": ["b", "a"]},
        {"names": {}},
        {"mean": "abc"},
        *({"columns": columns} for columns in ({"light": ["sun"]}, {"light": [1, 2, 3]}, {"light": None}, ["light"])),
    ],
)
def test_a_description_of_other_tensors_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="cannot be used"):
        gold_tensors.load(folder)

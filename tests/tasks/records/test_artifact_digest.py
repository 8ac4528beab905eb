from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import ModelError
from tasks.records import artifact_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "data").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}")
    (model / "data" / "model.pt2").write_bytes(bytes(100))
    return model


def flip_a_byte(folder: Path) -> None:
    (folder / "data" / "model.pt2").write_bytes(bytes(50) + b"\1" + bytes(49))


def rename(folder: Path) -> None:
    (folder / "MLmodel").rename(folder / "mlmodel")


def add(folder: Path) -> None:
    (folder / "data" / "code.py").write_text("")


def remove(folder: Path) -> None:
    (folder / "MLmodel").unlink()


@pytest.mark.parametrize("change", [flip_a_byte, rename, add, remove])
def test_any_change_is_another_digest(folder: Path, change: Callable[[Path], None]) -> None:
    before = artifact_digest.digest(folder)
    artifact_digest.require(folder, before, "version 1")
    change(folder)
    with pytest.raises(ModelError, match="the files of version 1 are not those that were registered"):
        artifact_digest.require(folder, before, "version 1")


def test_what_mlflow_adds_when_it_downloads_does_not_count(folder: Path) -> None:
    before = artifact_digest.digest(folder)
    (folder / "registered_model_meta").write_text("model_name: pets")
    assert artifact_digest.digest(folder) == before

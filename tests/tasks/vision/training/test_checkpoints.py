from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from tasks.errors import DataError
from tasks.vision.training import checkpoints


def state(epoch: int) -> dict[str, object]:
    return {
        "weights": torch.full((3,), float(epoch)),
        "history": [{"epoch": epoch, "loss": 0.1}],
        "betas": (0.9, 0.999),
    }


def test_the_newest_of_many_is_read_back_whole(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoints.save(state(epoch), epoch, tmp_path)
    newest = checkpoints.load_newest(tmp_path)
    assert newest is not None
    assert torch.equal(newest.pop("weights"), torch.full((3,), 3.0))
    assert newest == {"history": [{"epoch": 3, "loss": 0.1}], "betas": (0.9, 0.999)}


def test_two_are_kept_and_nothing_temporary_stays(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        checkpoints.save(state(epoch), epoch, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint-0.pt", "checkpoint-0.json", "checkpoint-1.pt", "checkpoint-1.json"}


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "description gone", "description cut off"])
def test_after_a_damaged_checkpoint_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    checkpoints.save(state(1), 1, tmp_path)
    newest, description = checkpoints.save(state(2), 2, tmp_path)
    data = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(data[:-100])
    elif damage == "changed":
        newest.write_bytes(data.replace(b"\0" * 8, b"\1" * 8, 1))
    elif damage == "gone":
        newest.unlink()
    elif damage == "description gone":
        description.unlink()
    else:
        description.write_text(description.read_text()[:20])
    with caplog.at_level(logging.WARNING):
        used = checkpoints.load_newest(tmp_path)
    assert used is not None
    assert used["history"] == [{"epoch": 1, "loss": 0.1}]
    assert newest.exists() is (damage != "gone")


def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = checkpoints.save(state(2), 2, tmp_path)
    path.write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load_newest(tmp_path) is None
    (message,) = caplog.messages
    assert message.startswith("checkpoint checkpoint-0.pt is damaged: its SHA-256 is not")


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoints.load_newest(tmp_path) is None
    assert caplog.messages == []


def test_a_crash_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(state(1), 1, tmp_path)
    checkpoints.save(state(2), 2, tmp_path)

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(state(4), 4, tmp_path)
    newest = checkpoints.load_newest(tmp_path)
    assert newest is not None
    assert newest["history"] == [{"epoch": 2, "loss": 0.1}]


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    path, description = checkpoints.save({"trap": Trap()}, 1, tmp_path)
    assert json.loads(description.read_text())["epoch"] == 1
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.load(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_checkpoint_is_said_to_be_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"checkpoint-0\.pt is damaged"):
        checkpoints.load(tmp_path / "checkpoint-0.pt")

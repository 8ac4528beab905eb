from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import torch

from tasks.serving.load_check import load_and_answer, load_check
from tests.tasks.serving.samples import Brightness, Store, log_model


def fetched(uri: str, folder: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def test_a_sound_model_works_and_its_memory_is_counted(store: Store, tmp_path: Path) -> None:
    with load_check(fetched(log_model(Brightness([0, 1, 2]))[1], tmp_path)) as outcome:
        trial = outcome()
    assert trial.works, trial.note
    assert trial.memory_mb is not None
    assert 0 < trial.memory_mb < 1000


def test_what_kills_its_process_is_an_answer_too(tmp_path: Path) -> None:
    with load_check(tmp_path / "nothing") as outcome:
        trial = outcome()
    assert not trial.works
    assert "does not load" in trial.note


class Doubles(Brightness):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).double()


def test_a_model_must_keep_to_its_signature(store: Store, tmp_path: Path) -> None:
    trial = load_and_answer(fetched(log_model(Doubles([0, 1, 2]))[1], tmp_path))
    assert not trial.works
    assert "its signature says" in trial.note


@pytest.mark.parametrize("file", ["MLmodel", "data"])
def test_half_a_model_does_not_work(store: Store, tmp_path: Path, file: str) -> None:
    folder = fetched(log_model(Brightness([0, 1, 2]))[1], tmp_path)
    target = folder / file
    if target.is_dir():
        target.rename(folder / "gone")
    else:
        target.unlink()
    assert not load_and_answer(folder).works

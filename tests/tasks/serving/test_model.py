from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.errors import ModelError
from tasks.serving.model import CHUNK, load
from tasks.serving.model_reference import Target
from tests.tasks.serving.samples import CLASSES, MODEL, Brightness, Store, log_model


def target(uri: str) -> Target:
    return Target(uri, None, None, None)


def test_answers_alike_for_any_number_of_images(store: Store) -> None:
    model = load(target(f"models:/{MODEL}/1"))
    images = np.random.default_rng(0).integers(0, 256, (2 * CHUNK + 1, 1, 8, 8), dtype=np.uint8)
    together = model.predict(images)
    assert together.shape == (2 * CHUNK + 1, 3)
    assert together.dtype == np.float32
    one_by_one = np.concatenate([model.predict(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    assert (model.classes, model.shape) == (tuple(CLASSES), (1, 8, 8))


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"input": [1, 8, 8]}, "'classes' is None"),
        ({"classes": ["a", "a"], "input": [1, 8, 8]}, "'classes' is"),
        ({"classes": CLASSES}, "'input' is None"),
        ({"classes": CLASSES, "input": [1, 8, 9]}, r"'input' is \[1, 8, 9\]"),
        ({"classes": ["a", "b"], "input": [1, 8, 8]}, r"answers \(1, 3\), not probabilities \(1, 2\)"),
        ({"classes": CLASSES, "input": [1, 16, 16]}, "fails on 1 black image"),
    ],
)
def test_refuses_a_model_that_does_not_fit_its_description(
    store: Store, metadata: dict[str, object], text: str
) -> None:
    _, uri = log_model(Brightness([0, 1, 2]), metadata=metadata)
    with pytest.raises(ModelError, match=text):
        load(target(uri))


def test_refuses_a_model_for_one_batch_size(store: Store) -> None:
    _, uri = log_model(Brightness([0, 1, 2]), batch=1)
    with pytest.raises(ModelError, match=r"fails on 2 black image"):
        load(target(uri))


class Logits(Brightness):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32).flatten(1)[:, :3] + self.centres


def test_refuses_answers_that_are_no_probabilities(store: Store) -> None:
    _, uri = log_model(Logits([0, 1, 2]))
    with pytest.raises(ModelError, match="not probabilities"):
        load(target(uri))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_does_not_run_a_pickle_hidden_in_the_archive(store: Store, tmp_path: Path) -> None:
    import mlflow

    _, uri = log_model(Brightness([0, 1, 2]))
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    archive = folder / "data" / "model.pt2"
    planted = tmp_path / "planted"
    torch.save(Bomb(planted), tmp_path / "bomb.pt")
    with zipfile.ZipFile(archive) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in records.items():
            sample = "sample_inputs" in name
            new.writestr(name, (tmp_path / "bomb.pt").read_bytes() if sample else data)
    assert any("sample_inputs" in name for name in records)
    with pytest.raises(mlflow.exceptions.MlflowException, match="not a pickle-free payload"):
        load(target(str(folder)))
    assert not planted.exists()


def test_refuses_code_that_comes_with_a_model(store: Store, tmp_path: Path) -> None:
    import mlflow

    _, uri = log_model(Brightness([0, 1, 2]))
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    description = (folder / "MLmodel").read_text().replace("code: null\n    model_data", "code: code\n    model_data")
    assert "code: code" in description
    (folder / "MLmodel").write_text(description)
    (folder / "code").mkdir()
    with pytest.raises(ModelError, match="contains code"):
        load(target(str(folder)))

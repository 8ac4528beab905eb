from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
import torch
from mlflow.models import Model
from onnx import TensorProto, helper

from tasks.errors import ModelError
from tasks.records.model_store import ONNX
from tasks.serving.model import CHUNK
from tasks.serving.model_reference import Target
from tests.tasks.serving.samples import CLASSES, Brightness, Store, load, log_model

Fetch = Callable[..., Path]


def target(uri: str) -> Target:
    return Target(uri, None, None, None)


@pytest.fixture
def fetch(store: Store, tmp_path: Path) -> Fetch:
    """Logs a model, and fetches its files to be changed."""

    def fetched(module: torch.nn.Module | None = None, **options: object) -> Path:
        _, uri = log_model(module or Brightness([0, 1, 2]), **options)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))

    return fetched


@pytest.mark.parametrize("onnx", [True, False])
def test_answers_alike_for_any_number_of_images(store: Store, onnx: bool) -> None:
    _, uri = log_model(Brightness([0, 1, 2]), onnx=onnx)
    model = load(target(uri))
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
    fetch: Fetch, metadata: dict[str, object], text: str
) -> None:
    folder = fetch()
    description = Model.load(str(folder))
    description.metadata = metadata
    description.save(str(folder / "MLmodel"))
    with pytest.raises(ModelError, match=text):
        load(target(str(folder)))


@pytest.mark.parametrize("onnx", [True, False])
def test_refuses_a_model_for_one_batch_size(store: Store, onnx: bool) -> None:
    _, uri = log_model(Brightness([0, 1, 2]), batch=1, onnx=onnx)
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


def test_does_not_run_a_pickle_hidden_in_the_archive(fetch: Fetch, tmp_path: Path) -> None:
    folder = fetch(onnx=False)
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


@pytest.mark.parametrize("onnx", [True, False])
def test_refuses_code_that_comes_with_a_model(fetch: Fetch, onnx: bool) -> None:
    folder = fetch(onnx=onnx)
    description = Model.load(str(folder))
    for flavor in description.flavors.values():
        flavor["code"] = "code"
    description.save(str(folder / "MLmodel"))
    (folder / "code").mkdir()
    with pytest.raises(ModelError, match="contains code"):
        load(target(str(folder)))


def rewritten(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Target:
    """Change the ONNX file in a folder."""
    model = onnx.load_model(folder / ONNX)
    change(model)
    (folder / ONNX).write_bytes(model.SerializeToString())
    return target(str(folder))


def test_refuses_weights_in_another_file(fetch: Fetch) -> None:
    folder = fetch()

    def move_out(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/hostname")

    with pytest.raises(ModelError, match=r"keeps the weights .* in another file"):
        load(rewritten(folder, move_out))


def test_refuses_an_operator_that_onnx_runtime_does_not_have(fetch: Fetch) -> None:
    def plant(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("of.mine", 1))
        model.graph.node[-1].domain = "of.mine"

    with pytest.raises(ModelError, match="cannot be opened by ONNX Runtime"):
        load(rewritten(fetch(), plant))


def test_refuses_a_model_with_two_inputs(fetch: Fetch) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))

    with pytest.raises(ModelError, match="has 2 inputs and 1 outputs"):
        load(rewritten(fetch(), add))


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_refuses_half_an_onnx_file(fetch: Fetch, keep: float) -> None:
    folder = fetch()
    content = (folder / ONNX).read_bytes()
    (folder / ONNX).write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ModelError, match=r"model.onnx (is no ONNX file|cannot be opened|has)"):
        load(target(str(folder)))


@pytest.mark.parametrize("named", ["data/none.onnx", "../model.onnx", None])
def test_refuses_a_description_that_names_another_file(fetch: Fetch, named: str | None) -> None:
    folder = fetch()
    (folder.parent / "model.onnx").write_bytes((folder / ONNX).read_bytes())
    description = Model.load(str(folder))
    description.flavors["onnx"]["data"] = named
    description.save(str(folder / "MLmodel"))
    with pytest.raises(ModelError, match="as ONNX file, and there is none"):
        load(target(str(folder)))

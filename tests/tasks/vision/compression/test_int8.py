from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from tasks.errors import ModelError
from tasks.vision.compression.int8 import DOMAINS, quantize
from tasks.vision.models import onnx_form
from tasks.vision.models.classifier import Classifier


def export(network: nn.Module, folder: Path) -> Path:
    classifier = Classifier(network, [0.5], [0.2]).eval()
    example = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    program = torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, folder / "model.pt2")
    onnx_form.export(folder / "model.pt2", folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with two convolutions and a head whose weights have one that is much larger than the others."""
    torch.manual_seed(0)
    head = nn.Linear(8, 4)
    with torch.no_grad():
        head.weight[:, 0] *= 100
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU())
    return export(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def quantized(source: Path, images: NDArray[np.uint8]) -> Path:
    target = source.with_name("int8.onnx")
    quantize(source, target, images)
    return target


def answers(file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"images": images})
    return np.asarray(found)


def test_it_answers_nearly_alike_for_any_number_of_images(
    source: Path, quantized: Path, images: NDArray[np.uint8]
) -> None:
    whole = answers(quantized, images)
    assert whole.dtype == np.float32
    assert np.abs(whole - answers(source, images)).max() < 0.05
    for count in (1, 7):
        assert np.array_equal(answers(quantized, images[:count]), whole[:count])


def test_convolutions_have_integers_with_a_scale_for_each_channel_and_the_head_has_none(quantized: Path) -> None:
    model = onnx.load_model(quantized)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        weights, scale = (tensors[name] for name in made_by[node.input[1]].input[:2])
        assert (weights.dtype, scale.shape) == (np.int8, (8,))
        assert {int(value) for value in tensors[made_by[node.input[1]].input[2]].flatten()} == {0}  # symmetric
    [head] = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert tensors[head.input[1]].dtype == np.float32


def test_all_operators_are_those_of_the_runtime_and_all_weights_are_inside(quantized: Path) -> None:
    model = onnx.load_model(quantized, load_external_data=False)
    assert {node.domain for node in model.graph.node} <= DOMAINS
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not list(quantized.parent.glob("*.data"))


def test_the_same_images_give_the_same_file(source: Path, quantized: Path, images: NDArray[np.uint8]) -> None:
    again = source.with_name("again.onnx")
    quantize(source, again, images)
    assert again.read_bytes() == quantized.read_bytes()
    quantize(source, again, images[:20])
    assert again.read_bytes() != quantized.read_bytes()


def test_a_network_of_nothing_but_a_head_is_refused(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    source = export(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), tmp_path)
    with pytest.raises(ModelError, match="no layer that INT8 could make faster"):
        quantize(source, tmp_path / "int8.onnx", images)
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("cut", [0, 100, 1000])
def test_a_damaged_file_is_refused_in_one_line(
    source: Path, tmp_path: Path, images: NDArray[np.uint8], cut: int
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(ModelError, match="ONNX Runtime cannot quantize this network: ") as error:
        quantize(damaged, tmp_path / "int8.onnx", images)
    assert "\n" not in str(error.value)


def test_an_operator_that_onnx_runtime_does_not_know_is_refused(
    source: Path, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    model = onnx.load_model(source)
    model.graph.node[0].domain = "acme"
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save_model(model, tmp_path / "custom.onnx")
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot quantize this network: .*acme"):
        quantize(tmp_path / "custom.onnx", tmp_path / "int8.onnx", images)

"""Two layers in QDQ form, whose integers were rounded badly on purpose."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.vision.compression.bias_correction import correct_means

SCALE = np.float32(0.01)


def initializer(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def model(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 1, 4, 4])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [images], [answer], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def around(first: list[str], second: list[str]) -> list[onnx.NodeProto]:
    """A convolution, an activation, a mean over positions, and a linear layer; with these inputs after the data."""
    return [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", *first], ["convolved"], name="conv"),
        helper.make_node("Relu", ["convolved"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", *second], ["answer"], name="linear", transB=1),
    ]


@pytest.fixture
def before() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    tensors = [
        initializer("w1", random.normal(0, 0.5, (3, 1, 3, 3)).astype(np.float32)),
        initializer("b1", np.array([0.5, -0.5, 20], np.float32)),
        initializer("w2", random.normal(0, 0.5, (2, 3)).astype(np.float32)),
        initializer("b2", np.array([1, -1], np.float32)),
    ]
    return model(around(["w1", "b1"], ["w2", "b2"]), tensors)


@pytest.fixture
def after(before: onnx.ModelProto) -> onnx.ModelProto:
    """The same with integers that are all one step too large: each mean is shifted."""
    tensors, nodes, inputs = [initializer("scale", np.array(SCALE))], [], []
    for tensor in before.graph.initializer:
        kind = np.int8 if tensor.name.startswith("w") else np.int32
        steps = (numpy_helper.to_array(tensor) / SCALE).round() + (kind is np.int8)
        tensors.append(
            initializer(f"{tensor.name} q", steps.clip(-127 if kind is np.int8 else None, 127e9).astype(kind))
        )
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor.name} q", "scale"], [f"{tensor.name} d"]))
        inputs.append(f"{tensor.name} d")
    return model([*nodes, *around(inputs[:2], inputs[2:])], tensors)


def means(of: onnx.ModelProto, tensor: str, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    seen = onnx.ModelProto()
    seen.CopyFrom(of)
    seen.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    [found] = session.run([tensor], {"images": images})
    axes = tuple(axis for axis in range(found.ndim) if axis != 1)
    return np.asarray(found.astype(np.float64).mean(axes))


def test_every_layer_has_its_old_mean_again(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    images = np.random.default_rng(1).integers(0, 256, (37, 1, 4, 4), np.uint8)  # the last pass is a short one
    for tensor in ("convolved", "answer"):
        assert np.abs(means(after, tensor, images) - means(before, tensor, images)).max() > 1
    assert correct_means(before, after, images) == 2
    for tensor in ("convolved", "answer"):
        shift = np.abs(means(after, tensor, images) - means(before, tensor, images)).max()
        assert shift <= SCALE / 2 + 1e-3, tensor


def test_weights_and_layers_without_a_bias_stay_as_they_are(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for of in (before, after):
        [conv] = [node for node in of.graph.node if node.op_type == "Conv"]
        del conv.input[2]
    weights = {t.name: t.raw_data for t in after.graph.initializer if t.name.startswith("w")}
    assert correct_means(before, after, np.zeros((5, 1, 4, 4), np.uint8)) == 1
    assert {t.name: t.raw_data for t in after.graph.initializer if t.name.startswith("w")} == weights


def test_a_bias_stays_within_32_bits(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for tensor in before.graph.initializer:
        if tensor.name == "b2":
            tensor.CopyFrom(initializer("b2", np.array([1e9, -1e9], np.float32)))
    correct_means(before, after, np.zeros((5, 1, 4, 4), np.uint8))
    [bias] = [numpy_helper.to_array(t) for t in after.graph.initializer if t.name == "b2 q"]
    assert bias.tolist() == [2**31 - 1, -(2**31)]

"""Bias correction: the mean of each quantized layer's output, of each channel, becomes what it was before.

Rounded weights shift the mean of a channel, and the layers after it add their own shifts; networks with few weights for
each channel lose most by that (Nagel et al. 2019, "Data-Free Quantization", section 4.2; here with images).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.vision.cpus import available_cpus

DEQUANTIZE = "DequantizeLinear"
BATCH = 16  # images per pass
INT32 = np.iinfo(np.int32)


def correct_means(before: onnx.ModelProto, after: onnx.ModelProto, images: NDArray[np.uint8]) -> int:
    """Change the biases of a quantized network so that its layers have the means that they had, on `images`.

    Layer by layer from the input on, because each correction changes what the next layer gets.

    Args:
        before: the network in float32.
        after: the same in QDQ form, with layers of the same names; its int32 biases are changed in place.
        images: uint8 [N, C, H, W].

    Returns:
        The number of layers corrected: those that have a bias.
    """
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    dequantized = {node.output[0]: node for node in after.graph.node if node.op_type == DEQUANTIZE}
    known = {node.name: node for node in before.graph.node}
    layers = []
    for node in after.graph.node:
        bias = dequantized.get(node.input[2]) if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 else None
        if bias is not None and bias.input[0] in tensors and node.name in known:
            layers.append((node, tensors[bias.input[0]], tensors[bias.input[1]]))
    wanted = _means(before, [known[node.name] for node, *_ in layers], images)
    for node, bias, scale in layers:
        [mean] = _means(after, [node], images).values()
        shift = wanted[known[node.name].output[0]] - mean
        steps = np.round(shift / numpy_helper.to_array(scale).astype(np.float64))
        changed = (numpy_helper.to_array(bias) + steps).clip(INT32.min, INT32.max).astype(np.int32)
        bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    return len(layers)


def _means(
    model: onnx.ModelProto, layers: Sequence[onnx.NodeProto], images: NDArray[np.uint8]
) -> Mapping[str, NDArray[np.float64]]:
    """Return the mean of each channel over images and positions, of the outputs of convolutions and linear layers."""
    if not layers:
        return {}
    names = [layer.output[0] for layer in layers]
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(_leading_to(model.graph, names))
    for layer in layers:
        axes = helper.make_tensor(f"{layer.output[0]} axes", onnx.TensorProto.INT64, *_axes(layer))
        mean = f"{layer.output[0]} mean"
        part.graph.initializer.append(axes)
        part.graph.node.append(helper.make_node("ReduceMean", [layer.output[0], axes.name], [mean], keepdims=0))
        part.graph.output.append(helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the service
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for name, mean in zip(names, session.run(None, {session.get_inputs()[0].name: batch}), strict=True):
            sums[name] = sums.get(name, 0) + mean.astype(np.float64) * len(batch)
    return {name: total / len(images) for name, total in sums.items()}


def _axes(layer: onnx.NodeProto) -> tuple[list[int], list[int]]:
    """Shape and content of the axes of a layer's output that are not its channels."""
    axes = [0, 2, 3] if layer.op_type == "Conv" else [0]
    return [len(axes)], axes


def _leading_to(graph: onnx.GraphProto, names: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that tensors are computed by, in the order of the graph."""
    needed = set(names)
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]

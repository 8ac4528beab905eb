"""INT8: static quantization of a classifier's ONNX form by ONNX Runtime's own tool, with the means of layers corrected.

Weights are symmetric, with a scale for each channel; activations have 8 bits without sign, because processors multiply
that pair fastest. The result consists of standard operators (QuantizeLinear, DequantizeLinear), which ONNX Runtime
fuses into integer kernels when it opens the file. Why this way: docs/decisions/0021-int8-by-onnx-runtime.md.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tasks.errors import ModelError
from tasks.vision.compression.bias_correction import correct_means

BATCH = 16  # images per pass: bounds the memory that the activations of all layers take
LINEAR = ("Gemm", "MatMul")
WEIGHTED = ("Conv", *LINEAR)
# What is quantized: layers, and what joins them. Not what prepares the pixels, nor the softmax, which would answer in
# steps of 1/255, nor Mul and HardSigmoid, which lose accuracy in MobileNetV3 and are no faster.
OPERATORS = (*WEIGHTED, "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
CORRECTED_BY = 100  # images at most: a mean needs fewer than a range, and each layer takes a pass
DOMAINS = {"", "ai.onnx", "com.microsoft"}  # of operators that ONNX Runtime brings along


def quantize(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Write the INT8 form of a classifier.

    The head, the last linear layer, stays in float32: it is small, and its weights vary so much in size that eight bits
    can cost it a quarter of the accuracy.

    Args:
        source: the ONNX form, of one input, uint8 [N, C, H, W].
        target: the `.onnx` file to write, with the same input and output.
        images: uint8 [N, C, H, W], for the ranges of activations and the means of layers; not from validation or test.

    Raises:
        ModelError: ONNX Runtime cannot quantize it, or it has no layer besides its head.
    """
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        try:
            # Merges batch normalisations into convolutions. Symbolic shapes would help with transformers only.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            before = onnx.load_model(prepared)
            head = _head(before)
            quantize_static(
                str(prepared),
                str(quantized),
                _Calibration(images, before.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[head] if head else [],
                calibrate_method=CalibrationMethod.MinMax,
            )
            after = onnx.load_model(quantized)
        except Exception as error:  # the tool raises whatever happens inside it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"ONNX Runtime cannot quantize this network: {reason[:200]}") from error
    if not _quantized_layers(after):
        raise ModelError(
            "this network has no layer that INT8 could make faster: no convolution, no linear layer but its head"
        )
    correct_means(before, after, images[:: math.ceil(len(images) / CORRECTED_BY)])
    foreign = {node.domain for node in after.graph.node} - DOMAINS
    if foreign:
        raise ModelError(f"the quantized network has operators of {', '.join(sorted(foreign))}, which no service knows")
    onnx.save_model(after, target)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """Hands the images to ONNX Runtime's tool, a batch at a time."""

    def __init__(self, images: NDArray[np.uint8], name: str) -> None:
        self._batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        self._name = name

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _head(model: onnx.ModelProto) -> str | None:
    """Return the name of the last linear layer with weights of its own; None if there is none."""
    weights = {tensor.name for tensor in model.graph.initializer}
    linear = [node.name for node in model.graph.node if node.op_type in LINEAR and node.input[1] in weights]
    return linear[-1] if linear else None


def _quantized_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers whose weights are integers."""
    integers = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in integers]

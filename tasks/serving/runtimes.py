"""Opens a model's files in the runtime that answers: ONNX Runtime, or torch for models of earlier releases."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.serving.model_description import Described
from tasks.serving.onnx_tensors import require_inside
from tasks.vision.models.forward import Forward

ONNX, PYTORCH = "onnx", "pytorch"  # MLflow's flavors
PACKAGES = {ONNX: ("onnxruntime", "google.protobuf"), PYTORCH: ("torch", "mlflow.pytorch")}  # that each is opened with


def runtime_of(description: Described) -> str:
    """Return the runtime for a logged model: `onnx`, or `pytorch` where it has no ONNX form.

    Raises:
        ModelError: it has neither form, contains code, or needs torch, which the service's image has not.
    """
    for name in (ONNX, PYTORCH):
        flavor = description.flavors.get(name)
        if flavor is not None and not flavor.get("code"):
            if name == PYTORCH and find_spec("torch") is None:
                raise ModelError(
                    "an earlier release registered it without the ONNX form that this service runs; export it once: "
                    "make export-onnx, or `python -m tasks export-onnx` in the image of train"
                )
            return name
    raise ModelError("it is neither an ONNX model nor a plain PyTorch model, or contains code; log it as train does")


def open_model(folder: Path, description: Described, threads: int) -> Forward:
    """Open a logged model in its runtime; several threads may ask it at once.

    Args:
        folder: its files.
        description: its MLmodel file, read.
        threads: that ONNX Runtime may use for an answer; torch's number is the process's own.

    Raises:
        ModelError: it is damaged, contains code, refers to other files, or was made for another device.
    """
    if runtime_of(description) == PYTORCH:
        return open_program(folder)
    return open_onnx(onnx_file(folder, description), threads)


def onnx_file(folder: Path, description: Described) -> Path:
    """Return the ONNX file of a logged model that has one.

    Raises:
        ModelError: its description names a file that is not there, or outside of its folder.
    """
    named = str(description.flavors[ONNX].get("data"))
    file = folder / named
    if not (file.is_file() and file.resolve().is_relative_to(folder.resolve())):
        raise ModelError(f"its description names {named!r} as ONNX file, and there is none; train the model again")
    return file


def served_bytes(folder: Path, description: Described) -> int:
    """Return the size of the form that is served."""
    if runtime_of(description) == ONNX:
        return onnx_file(folder, description).stat().st_size
    return sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file())


def open_program(folder: Path) -> Forward:
    """Open the exported program of a logged model with torch.

    Raises:
        ModelError: it was made for another device.
    """
    import mlflow.pytorch

    from tasks.vision.models.classifier import forward_of

    # torch.export's archives may contain pickles; with this, MLflow refuses such files before it opens them.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    module = mlflow.pytorch.load_model(str(folder))
    devices = {str(tensor.device) for tensor in module.state_dict().values()} - {"cpu"}
    if devices:
        raise ModelError(f"it was exported on {', '.join(sorted(devices))}; export it on the CPU as train does")
    return forward_of(module)


def open_onnx(file: Path, threads: int) -> Forward:
    """Open an ONNX file; see `open_onnx_content`."""
    return open_onnx_content(file.read_bytes(), file.name, threads)


def open_onnx_content(content: bytes, name: str, threads: int) -> Forward:
    """Open what an ONNX file holds; several threads may ask it at once, and each answer uses `threads` threads.

    Args:
        content: of the file.
        name: of the file, for errors.
        threads: that ONNX Runtime may use for an answer.

    Raises:
        ModelError: it is damaged, refers to other files, has operators of its own, or not one input and one output.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at its import; it reports its use to Microsoft
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait for each other actively take the cores from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; warnings are about the graph, which nobody here can change
    require_inside(content, name)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class of errors for each status, without a common one
        raise ModelError(f"{name} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs and {len(outputs)} outputs; train exports one of each")
    fed = inputs[0].name

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        [answer] = session.run(None, {fed: np.ascontiguousarray(images)})
        return np.asarray(answer)

    return forward

"""Requires that an ONNX file holds all its weights: its digest would not cover those in other files.

The package `onnx` would do, for 27 MB of the image and 20 MB of memory. What is needed of its format are the fields
below; protobuf, which MLflow needs anyway, skips all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tasks.errors import ModelError

Field = descriptor_pb2.FieldDescriptorProto
EXTERNAL = 1  # TensorProto.DataLocation
# Of onnx.proto: for each message its fields with their numbers, and the message that a field holds.
MESSAGES: dict[str, dict[str, tuple[int, str | int]]] = {
    "ModelProto": {
        "graph": (7, "GraphProto"), "training_info": (20, "TrainingInfoProto"), "functions": (25, "FunctionProto"),
    },
    "TrainingInfoProto": {"initialization": (1, "GraphProto"), "algorithm": (2, "GraphProto")},
    "FunctionProto": {"node": (7, "NodeProto"), "attribute_proto": (11, "AttributeProto")},
    "GraphProto": {
        "node": (1, "NodeProto"), "initializer": (5, "TensorProto"), "sparse_initializer": (15, "SparseTensorProto"),
    },
    "NodeProto": {"attribute": (5, "AttributeProto")},
    "AttributeProto": {
        "t": (5, "TensorProto"), "g": (6, "GraphProto"), "tensors": (10, "TensorProto"), "graphs": (11, "GraphProto"),
        "sparse_tensor": (22, "SparseTensorProto"), "sparse_tensors": (23, "SparseTensorProto"),
    },
    "SparseTensorProto": {"values": (1, "TensorProto"), "indices": (2, "TensorProto")},
    "TensorProto": {
        "name": (8, Field.TYPE_BYTES), "external_data": (13, Field.TYPE_BYTES), "data_location": (14, Field.TYPE_INT32),
    },
}  # fmt: skip


def require_inside(content: bytes, name: str) -> None:
    """Require that an ONNX file names no other file.

    Args:
        content: the file.
        name: of the file, for the error.

    Raises:
        ModelError: it does, or it is no ONNX file.
    """
    model = _model_class()()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{name} is no ONNX file, or damaged ({error}); train the model again") from error
    for tensor in _tensors(model):
        if tensor.external_data or EXTERNAL in tensor.data_location:
            called = b"".join(tensor.name).decode(errors="replace")
            raise ModelError(f"{name} keeps the weights {called!r} in another file; export it with all weights inside")


@cache
def _model_class() -> Any:
    """The class of a ModelProto with the fields above. All are read as repeated: that includes those that are not."""
    file = descriptor_pb2.FileDescriptorProto(name="tasks/onnx_tensors.proto", package="tasks.onnx", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, holds) in fields.items():
            added = message.field.add(name=field, number=number, label=Field.LABEL_REPEATED)
            if isinstance(holds, str):
                added.type, added.type_name = Field.TYPE_MESSAGE, f".tasks.onnx.{holds}"
            else:
                added.type = holds
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tasks.onnx.ModelProto"))


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors below a message, those of the branches and loops inside a graph too."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value:
                if field.message_type.name == "TensorProto":
                    yield inner
                else:
                    yield from _tensors(inner)

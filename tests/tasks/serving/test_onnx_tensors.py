"""An ONNX file whose weights are elsewhere is refused, wherever in the file it says so."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto

from tasks.errors import ModelError
from tasks.serving.onnx_tensors import MESSAGES, require_inside

Place = Callable[[onnx.ModelProto], TensorProto]
PLACES: dict[str, Place] = {
    "an initializer": lambda model: model.graph.initializer.add(),
    "a sparse initializer": lambda model: model.graph.sparse_initializer.add().values,
    "its indices": lambda model: model.graph.sparse_initializer.add().indices,
    "a constant": lambda model: model.graph.node.add().attribute.add().t,
    "a list of constants": lambda model: model.graph.node.add().attribute.add().tensors.add(),
    "a sparse constant": lambda model: model.graph.node.add().attribute.add().sparse_tensor.values,
    "a branch": lambda model: model.graph.node.add().attribute.add().g.initializer.add(),
    "a loop in a branch": lambda model: (
        model.graph.node.add().attribute.add().graphs.add().node.add().attribute.add().g.initializer.add()
    ),
    "a function": lambda model: model.functions.add().node.add().attribute.add().t,
    "training": lambda model: model.training_info.add().algorithm.initializer.add(),
}


def model() -> onnx.ModelProto:
    made = onnx.ModelProto(ir_version=10)
    made.graph.name = "graph"
    made.graph.initializer.add(name="inside", raw_data=b"1234")
    return made


def test_weights_inside_are_accepted() -> None:
    require_inside(model().SerializeToString(), "model.onnx")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("how", ["location", "only the name of a file"])
def test_weights_elsewhere_are_refused(place: Place, how: str) -> None:
    made = model()
    tensor = place(made)
    tensor.name = "outside"
    tensor.external_data.add(key="location", value="weights.bin")
    if how == "location":
        tensor.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match=r"model\.onnx keeps the weights 'outside' in another file"):
        require_inside(made.SerializeToString(), "model.onnx")


def test_a_name_that_is_no_text_is_refused_as_well() -> None:
    tensor = b"\x42\x02\xff\xfe\x70\x01"  # name (8) of two bytes, data_location (14): external
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    with pytest.raises(ModelError, match="in another file"):
        require_inside(b"\x3a" + bytes([len(graph)]) + graph, "model.onnx")


def test_nesting_without_end_is_an_error_and_no_crash() -> None:
    graph = b""
    for _ in range(500):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # g (6) of attribute (5) of node (1)
            size = len(graph)
            length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            graph = tag + length + graph
    with pytest.raises(ModelError, match="is no ONNX file, or damaged"):
        require_inside(
            b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14]) + graph, "m"
        )


def test_the_fields_are_those_of_onnx_and_none_is_missing() -> None:
    for name, fields in MESSAGES.items():
        of_onnx = getattr(onnx, name).DESCRIPTOR.fields
        numbers = {field.name: field.number for field in of_onnx}
        assert {field: number for field, (number, _) in fields.items()}.items() <= numbers.items()
        leads_to_tensors = {f.name for f in of_onnx if f.message_type is not None and f.message_type.name in MESSAGES}
        assert leads_to_tensors <= fields.keys(), name

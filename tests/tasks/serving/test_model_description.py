"""The description of a logged model, read without pandas; a stranger may have written it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mlflow.models import Model
from mlflow.models.signature import infer_signature

from tasks.errors import ModelError
from tasks.serving.model_description import LARGEST, ModelDescription


def test_it_says_what_mlflow_reads(tmp_path: Path) -> None:
    written = Model(metadata={"classes": ["a", "b"], "input": [3, 32, 32]})
    written.signature = infer_signature(np.zeros((1, 3), np.uint8))
    written.add_flavor("onnx", data="model.onnx", code=None)
    written.save(str(tmp_path / "MLmodel"))
    found = ModelDescription.of(tmp_path)
    assert (found.flavors, found.metadata) == (written.flavors, written.metadata)


def test_a_model_without_metadata_has_none(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}\nmetadata:\n")
    assert ModelDescription.of(tmp_path).metadata == {}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"text", b"flavors: 7", b"flavors: [onnx]", b"flavors: {onnx: 7}", b"metadata: [a]",
        b"flavors: {", b"\xff\xfe\x00", b"!!python/object/apply:os.system [id]", b"[" * 5000,
        b"# " + b"a" * LARGEST,
    ],
)  # fmt: skip
def test_what_is_no_description_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "MLmodel").write_bytes(content)
    with pytest.raises(ModelError, match=r"its file MLmodel .*; train the model again$") as raised:
        ModelDescription.of(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_folder_without_one_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its file MLmodel cannot be read"):
        ModelDescription.of(tmp_path)

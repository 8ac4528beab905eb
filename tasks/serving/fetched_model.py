"""The files of a logged model on this machine, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.models import Model

from tasks.errors import ModelError
from tasks.records import artifact_digest
from tasks.serving.runtimes import ONNX, onnx_file, runtime_of


@dataclass(frozen=True, eq=False)  # a description cannot be hashed
class FetchedModel:
    """A logged model whose files are here.

    Attributes:
        what: names it in logs and errors.
        folder: of its files.
        description: its MLmodel file, read.
        shape: of the images that it was made for, channels, height, width.
    """

    what: str
    folder: Path
    description: Model
    shape: tuple[int, int, int]

    @property
    def runtime(self) -> str:
        """The runtime that serves it, `onnx` or `pytorch`."""
        return runtime_of(self.description)

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self._paths())

    def files(self, runtime: str) -> dict[str, bytes]:
        """Return what opens it in a runtime, by path in its folder: its ONNX file, or all its other files."""
        onnx = {onnx_file(self.folder, self.description)} if ONNX in self.description.flavors else set()
        paths = onnx if runtime == ONNX else self._paths() - onnx
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    def _paths(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if path.is_file()}


@contextmanager
def fetched(model_uri: str, classes: tuple[str, ...], artifact_sha256: str | None, what: str) -> Iterator[FetchedModel]:
    """Fetch a logged model and check it; its files are here until the block ends.

    Args:
        model_uri: of the logged model.
        classes: of the data, which must be its own.
        artifact_sha256: digest of its files; None: another program registered it, and nothing is compared.
        what: names it in logs and errors.

    Raises:
        ModelError: its files were changed, or its classes are not those of the data.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=name))
        if artifact_sha256 is not None:  # a champion registered by another program has none
            artifact_digest.require(folder, artifact_sha256, what)
        description = Model.load(str(folder))
        metadata = description.metadata or {}
        known = tuple(metadata.get("classes", ()))
        if known != classes:
            raise ModelError(
                f"{model_uri} has the classes {list(known)[:5]}, the data have {list(classes)[:5]}; "
                "evaluate it on the data it was trained on"
            )
        channels, height, width = metadata["input"]
        yield FetchedModel(what, folder, description, (channels, height, width))

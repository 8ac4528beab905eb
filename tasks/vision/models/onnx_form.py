"""The ONNX form of a classifier, which the service runs: made from the exported program that training leaves."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from tasks.contract.networks import NETWORKS
from tasks.errors import ModelError
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier

INPUT, OUTPUT = "images", "probabilities"
LARGEST = 2 * 2**30  # bytes; an ONNX file is one protobuf message, which can be no larger


def export(program: Path, target: Path) -> None:
    """Write the ONNX form of a program exported by torch.export.

    It has the input `images`, uint8 [N, C, H, W] of any N, the output `probabilities`, float32 [N, K], and all its
    weights inside: one file, which needs no other and can be digested whole.

    Args:
        program: the `.pt2` file, of a `Classifier`.
        target: the `.onnx` file to write.

    Raises:
        ModelError: the program is too large for one file, or has an operation that ONNX has not.
    """
    size = program.stat().st_size
    if size >= LARGEST:
        raise ModelError(f"the model has {size / 1e9:.1f} GB, and an ONNX file at most 2; train a smaller network")
    _convert(torch.export.load(program)).save(target, external_data=False)


def require(architectures: Iterable[str], classes: int, shape: tuple[int, int, int]) -> None:
    """Check that networks have an ONNX form, before hours are spent on their training.

    Those in the contract's table have one: tests export each. For any other it takes some seconds.

    Args:
        architectures: names, as for `build`.
        classes: number of classes.
        shape: channels, height and width of the images that the networks get.

    Raises:
        ModelError: one of them has none.
    """
    for name in sorted(set(architectures) - set(NETWORKS)):
        with torch.random.fork_rng(devices=[]):  # what is trained does not depend on this check
            classifier = Classifier(build(name, classes, shape), [0.5] * shape[0], [0.5] * shape[0]).eval()
        example = torch.zeros((2, *shape), dtype=torch.uint8)
        try:
            _convert(torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)))
        except ModelError as error:
            raise ModelError(f"model={name}: {error}; choose another network") from error


def _convert(exported: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    said = io.StringIO()  # the exporter prints its progress
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")  # of the exporter's own making: deprecations inside torch
        try:
            form = torch.onnx.export(exported, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
        except Exception as error:  # the exporter's own class of errors wraps those of every pass
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"this network cannot be served, for it has no ONNX form: {reason}") from error
    assert form is not None  # noqa: S101  # only the old exporter returns nothing
    return form

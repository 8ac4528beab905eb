"""Gives a version that an earlier release registered the ONNX form which the service opens, once.

It needs torch, so it runs in the image of train or on a laptop, not in the service: `python -m tasks export-onnx`, and
the stage rollback before it moves the champion.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from numpy.typing import NDArray

from tasks.errors import ModelError
from tasks.records import artifact_digest, onnx_forms
from tasks.records.reference_predictions import ReferencePredictions, read_reference_predictions
from tasks.records.transient_errors import as_unavailable
from tasks.serving.runtimes import PYTORCH, open_onnx, open_program
from tasks.vision.data.images import decode
from tasks.vision.evaluation.agreement import Agreement
from tasks.vision.models.forward import Forward

FILE = "model.onnx"

log = logging.getLogger("tasks.onnx_export")


def ensure(version: ModelVersion) -> str:
    """Export a version to ONNX if it has no ONNX form; say what was done, in one line.

    Nothing is written unless the ONNX form answers the reference predictions of evaluate as torch and as evaluate did.
    An exported form that was damaged in the store is made again.

    Raises:
        ModelError: its files are missing, damaged or no exported program; or the ONNX form answers otherwise.
        DataError: it has no reference predictions.
    """
    what = f"{version.name} version {version.version}"
    known = onnx_forms.OnnxForm.of(version)
    if known is not None and known.is_intact:
        return f"{what} has an ONNX form, exported before; nothing to do"
    try:
        if onnx_forms.logged(version):
            return f"{what} has an ONNX form; nothing to do"
    except (MlflowException, OSError) as error:
        raise _missing(what, error) from error
    if not version.run_id:
        raise ModelError(f"{what} has no train run to keep its ONNX form, because another program registered it")
    reference = read_reference_predictions(version.tags.get("pipeline.evaluate_run_id"), what)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="onnx-export-") as folder:
        program, form = _fetch(version, what, Path(folder)), Path(folder) / "form"
        form.mkdir()
        difference = _export(program, form, reference, what)
        stored = onnx_forms.store(version, form)
        size = (form / FILE).stat().st_size / 1e6
    log.info("%s: ONNX form of %.1f MB at %s", what, size, stored.uri)
    again = ", for the one in the store is damaged" if known else ""
    return (
        f"{what} exported to ONNX in {time.perf_counter() - start:.0f} s{again} ({size:.1f} MB): answers "
        f"{len(reference.predictions)} reference images as torch does, within {difference:.1g}"
    )


def _fetch(version: ModelVersion, what: str, folder: Path) -> Path:
    """Download the logged model of a version and check its digest, if it was registered with one."""
    (target := folder / "program").mkdir()
    uri = f"models:/{version.name}/{version.version}"
    try:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target)))
    except (MlflowException, OSError) as error:
        raise _missing(what, error) from error
    if (digest := version.tags.get(artifact_digest.TAG)) is not None:
        artifact_digest.require(path, digest, what)
    return path


def _missing(what: str, error: Exception) -> Exception:
    """The error for a version whose files cannot be read; the one that came if a server is away."""
    if as_unavailable(error) is not None:
        return error
    return ModelError(f"{what}: its files cannot be read from the store ({error}); choose another version")


def _export(program: Path, form: Path, reference: ReferencePredictions, what: str) -> float:
    """Write the ONNX form of a logged program to an empty folder; return how much its answers differ from torch's."""
    description = Model.load(str(program))
    in_torch = _convert(program, description, form / FILE, what)
    _describe(description, form)
    images, expected = _asked(reference, description, what)
    answers = open_onnx(form / FILE, threads=1)(images)
    agreement = Agreement.of(answers, in_torch(images))
    if not agreement.holds:
        raise ModelError(f"{what}: its ONNX form {agreement}; train it again")
    if answers.shape != expected.shape or not np.abs(answers - expected).max() <= reference.tolerance:
        raise ModelError(
            f"{what}: its ONNX form and its program answer the reference images otherwise than in evaluate, by more "
            f"than {reference.tolerance:g}; train it again"
        )
    return agreement.largest


def _convert(program: Path, description: Model, target: Path, what: str) -> Forward:
    """Write the ONNX file of a logged program; return the program, opened with torch."""
    from tasks.vision.models import onnx_form  # with torch

    file = program / str(description.flavors.get(PYTORCH, {}).get("model_data", "data")) / "model.pt2"
    if not (file.is_file() and file.resolve().is_relative_to(program.resolve())):
        raise ModelError(f"{what} holds no exported program (model.pt2) to make an ONNX form of; train it again")
    try:
        in_torch = open_program(program)  # MLflow refuses pickles in it
        onnx_form.export(file, target)
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from error
    except MlflowException as error:
        raise ModelError(f"{what}: model.pt2 is damaged or holds pickled objects, which are not loaded") from error
    except Exception as error:  # a damaged archive: torch raises whatever its parts run into
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{what}: its exported program is damaged ({reason}); train it again") from error
    return in_torch


def _asked(
    reference: ReferencePredictions, description: Model, what: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The reference images, as the network takes them, and evaluate's answers."""
    match (description.metadata or {}).get("input"):
        case [int(channels), int(side), int()]:
            images = np.stack([decode(one.image, channels, side) for one in reference.predictions])
        case other:
            raise ModelError(f"{what}: metadata 'input' is {other!r}, not [channels, side, side]; train it again")
    return images, np.array([one.probabilities for one in reference.predictions], dtype=np.float32)


def _describe(description: Model, form: Path) -> None:
    """Write the MLmodel file: that of the logged model, with the flavor `onnx` alone."""
    description.flavors = {}
    description.saved_input_example_info = None  # type: ignore[assignment]  # the getter's type has it
    onnx_forms.describe(description, form, FILE)

"""compress: make a challenger out of a finished model, which answers alike and costs less.

Its run is for the stages after it what a train run is: evaluate finds the model, its data and its classes there. A new
method is an entry in `METHODS` here and in the contract.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from numpy.typing import NDArray

from tasks.contract.compression import CompressRequest, CompressResult
from tasks.errors import ModelError
from tasks.files import sha256
from tasks.records import artifact_digest, compressed_models, gold_store, model_store, registry
from tasks.records.compressed_models import Compression
from tasks.records.inputs.compression import CompressInputs
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun, use_datasets
from tasks.serving.load_check import MEGABYTE
from tasks.serving.runtimes import ONNX, onnx_file, open_onnx, runtime_of
from tasks.settings import Settings
from tasks.vision.compression import int8
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold
from tasks.vision.evaluation.scoring import predict

log = logging.getLogger("tasks.compress")


@dataclass(frozen=True)
class Job:
    """What a method works on.

    Attributes:
        source: the ONNX form of the trained model.
        target: the ONNX file to write, with the same input and output.
        calibration: training images, uint8 [N, C, H, W].
    """

    source: Path
    target: Path
    calibration: NDArray[np.uint8]


def _int8(job: Job) -> None:
    int8.quantize(job.source, job.target, job.calibration)


METHODS: Mapping[str, Callable[[Job], None]] = {"int8": _int8}


def run(request: CompressRequest, inputs: CompressInputs, run: StageRun, settings: Settings) -> CompressResult:
    """Compress the model of a train run and log the result to this run.

    Raises:
        DataError: the gold that the model was trained on is missing.
        ModelError: the model's files were changed, it has no ONNX form, or the method does not apply to its network.
    """
    compressed_models.keep_parent(run.run_id, inputs.train_run_id, inputs.version)
    gold = gold_store.fetch_made_by(inputs.data.gold_run_id)
    use_datasets(run, inputs.data.prepare_run_id, "training", "validation")
    calibration = _calibration(gold, request)
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        what = f"version {inputs.version}" if inputs.version else f"the model of run {inputs.train_run_id}"
        source, target = _fetch(inputs, Path(folder), what), Path(folder) / "smaller.onnx"
        log.info("compressing %s by %s, with %d training images", what, request.method, len(calibration))
        start = time.perf_counter()
        METHODS[request.method](Job(source, target, calibration))
        log.info("compressed in %.1f s", time.perf_counter() - start)
        quality = _quality(source, target, gold, fitted_to_validation=inputs.fitted_to_validation)
        sizes = [file.stat().st_size / MEGABYTE for file in (source, target)]
        digest = sha256(target)
        about = {"fingerprint": gold.fingerprint, "compression": request.method}
        uri = model_store.log_onnx_once(target, gold, digest, about, run)
    mlflow.log_text(json.dumps(gold.classes), "classes.json")
    log_values(
        {
            **{name: value for name, value in quality.items() if value is not None},
            "model_size_bytes": sizes[1] * MEGABYTE,
            "parent_model_size_bytes": sizes[0] * MEGABYTE,
        },
        model_id=uri.removeprefix("models:/"),  # otherwise MLflow adds them to it in a retry only
    )
    mlflow.set_tags(
        {
            **Compression(request.method, inputs.train_run_id, inputs.version, len(calibration)).tags,
            registry.SHA256: digest,
            artifact_digest.TAG: model_store.artifact_sha256(uri),
            "pipeline.logged_model_uri": uri,
        }
    )
    return CompressResult(
        **run.result_fields,
        method=request.method,
        train_run_id=inputs.train_run_id,
        parent_version=inputs.version,
        **quality,
        megabytes=sizes[1],
        parent_megabytes=sizes[0],
        model_sha256=digest,
    )


def _fetch(inputs: CompressInputs, folder: Path, what: str) -> Path:
    """Download the trained model, check its files, and return its ONNX form."""
    path = Path(mlflow.artifacts.download_artifacts(artifact_uri=inputs.model.uri, dst_path=str(folder)))
    artifact_digest.require(path, inputs.model.artifact_sha256, what)
    description = mlflow.models.Model.load(str(path))
    if runtime_of(description) != ONNX:
        raise ModelError(
            f"{what} has no ONNX form, because an earlier release logged it; compress a model that this release "
            "trained: give its run as trained_by, or wait for the next champion"
        )
    return onnx_file(path, description)


def _calibration(gold: Gold, request: CompressRequest) -> NDArray[np.uint8]:
    """Choose training images; all of them if there are not as many as asked for."""
    images = gold.train.images
    if len(images) < request.calibration_images:
        log.warning("calibration_images=%d, and there are %d training images", request.calibration_images, len(images))
    order = np.random.default_rng(request.calibration_seed).permutation(len(images))
    return images[np.sort(order[: request.calibration_images])]


def _quality(source: Path, target: Path, gold: Gold, *, fitted_to_validation: bool) -> dict[str, float | None]:
    """Compare the answers of two ONNX files for the validation images, by the names of the result's fields.

    There is no accuracy where these images were trained on: it would be near 1 whatever the model is worth.
    """
    before, now = (_answers(file, gold) for file in (source, target))

    def accuracy(answers: NDArray[np.intp]) -> float | None:
        return None if fitted_to_validation else float((answers == gold.validation.labels).mean())

    return {
        "validation_accuracy": accuracy(now),
        "parent_validation_accuracy": accuracy(before),
        "same_answers": float((now == before).mean()),
    }


def _answers(file: Path, gold: Gold) -> NDArray[np.intp]:
    """Open an ONNX file as the service does, and return its answers for the validation images: int [N]."""
    probabilities = predict(open_onnx(file, threads=1), gold.validation.images, gold.shape, available_cpus())
    answers: NDArray[np.intp] = probabilities.argmax(1)
    return answers

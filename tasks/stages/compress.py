"""compress: make a challenger out of a finished model, which answers alike and costs less.

Its run is for the stages after it what a train run is: evaluate finds the model, its data and its classes there. A new
method is an entry in `METHODS` here and in the contract.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import Model
from numpy.typing import NDArray

from tasks.contract.compression import CompressRequest, CompressResult
from tasks.contract.recipe import Recipe, TrainingRequest
from tasks.errors import ModelError
from tasks.files import sha256
from tasks.records import artifact_digest, compressed_models, gold_store, model_store, pruned_weights, registry
from tasks.records.compressed_models import Compression
from tasks.records.inputs.compression import CompressInputs
from tasks.records.logged_training import CHOSEN, LoggedTraining
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun, use_datasets
from tasks.serving.load_check import MEGABYTE
from tasks.serving.runtimes import ONNX, onnx_file, open_onnx, runtime_of
from tasks.settings import Settings
from tasks.vision.compression import int8, pruning
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device
from tasks.vision.evaluation.scoring import predict
from tasks.vision.models import weights
from tasks.vision.models.build import build_again
from tasks.vision.models.classifier import Classifier, digest
from tasks.vision.training.basis import basis_of
from tasks.vision.training.distillation import Distillation

RETRAINING_RATE = 0.1  # of the learning rate that the network was trained with

log = logging.getLogger("tasks.compress")


@dataclass(frozen=True)
class Job:
    """What a method works on.

    Attributes:
        request: what is asked for.
        inputs: the model, and what else was found.
        gold: the data that it was trained on.
        run: the run to log the result to.
        files: of the logged model.
        onnx: its ONNX form, one of them.
    """

    request: CompressRequest
    inputs: CompressInputs
    gold: Gold
    run: StageRun
    files: Path
    onnx: Path


@dataclass(frozen=True)
class Made:
    """What a method logged.

    Attributes:
        uri: of the logged model.
        sha256: digest of the model.
        images: number of training images that it was calibrated or trained on.
    """

    uri: str
    sha256: str
    images: int


def _int8(job: Job) -> Made:
    calibration = _calibration(job.gold, job.request)
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        target = Path(folder) / "smaller.onnx"
        int8.quantize(job.onnx, target, calibration)
        sha = sha256(target)
        about = {"fingerprint": job.gold.fingerprint, "compression": job.request.method}
        return Made(model_store.log_onnx_once(target, job.gold, sha, about, job.run), sha, len(calibration))


def _distill(job: Job) -> Made:
    gold, request, inputs = job.gold, job.request, job.inputs
    asked = TrainingRequest(model=request.student, epochs=request.compression_epochs, seed=request.calibration_seed)
    basis = basis_of(gold, [request.student] if inputs.weights else [], gpu=choose_device("auto").type != "cpu")
    distillation = Distillation(_classifier(job), request.temperature, request.teacher_share)
    logged = LoggedTraining(
        job.run.run_id, asked.recipe(basis), inputs.data, gold, inputs.weights, distillation=distillation
    )
    return _finish(job, logged, request.student, f"{request.student} taught by {inputs.params['model']}")


def _prune(job: Job) -> Made:
    gold, request, params, run_id = job.gold, job.request, job.inputs.params, job.run.run_id
    classifier = _classifier(job)
    kept = pruned_weights.find(run_id)
    if kept is None:
        pruned = pruning.prune(classifier, _calibration(gold, request), request.pruning_ratio)
        kept = pruned.classifier.network.state_dict()
        log_values({"multiplications": pruned.operations, "parent_multiplications": pruned.operations_before})
        pruned_weights.keep(run_id, kept)
    pruning.with_weights(classifier.network, kept)
    recipe = _retraining(params, request)
    logged = LoggedTraining(run_id, recipe, job.inputs.data, gold, None, classifier=classifier)
    return _finish(job, logged, recipe.model, f"{recipe.model} pruned by {request.pruning_ratio:.0%}")


def _retraining(params: Mapping[str, str], request: CompressRequest) -> Recipe:
    """Make the recipe for a pruned network: that of its training, all layers, with lower learning rates."""
    trained = Recipe.model_validate({name: params[name] for name in CHOSEN & params.keys()})
    return trained.model_copy(
        update={
            "finetune": "scratch" if trained.finetune == "scratch" else "full",
            "epochs": request.compression_epochs or trained.epochs,
            "learning_rate": trained.learning_rate * RETRAINING_RATE,
            "seed": request.calibration_seed,
        }
    )


def _classifier(job: Job) -> Classifier:
    """Make the model that is compressed again, with its network."""
    gold, side = job.gold, job.inputs.params.get("input_side")
    stored = weights.read(job.files / model_store.PROGRAM)
    return build_again(job.inputs.params["model"], len(gold.classes), gold.shape, stored, int(side) if side else None)


def _finish(job: Job, logged: LoggedTraining, network: str, title: str) -> Made:
    """Train to the end and log the model, with its curves."""
    gold = job.gold
    logged.run()
    logged.log_curves(f"{title} on {gold.dataset}, {len(gold.train)} images")
    classifier = logged.training.best_classifier()
    return Made(model_store.log_once(classifier, gold, network, job.run), digest(classifier), len(gold.train))


METHODS: Mapping[str, Callable[[Job], Made]] = {"int8": _int8, "distill": _distill, "prune": _prune}


def run(request: CompressRequest, inputs: CompressInputs, run: StageRun, settings: Settings) -> CompressResult:
    """Compress the model of a train run and log the result to this run; a retry resumes a training.

    Raises:
        DataError: the gold that the model was trained on is missing.
        ModelError: the model's files were changed, it has no ONNX form, or the method does not apply to its network.
        RequestError: the student is a network that cannot be trained here.
    """
    compressed_models.keep_parent(run.run_id, request.method, inputs.train_run_id, inputs.version)
    gold = gold_store.open_made_by(inputs.data.gold_run_id, inputs.data.gold_sha256, settings)
    use_datasets(run, inputs.data.prepare_run_id, "training", "validation")
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        what = f"version {inputs.version}" if inputs.version else f"the model of run {inputs.train_run_id}"
        files, source = _fetch(inputs.model.uri, inputs.model.artifact_sha256, Path(folder) / "before", what)
        log.info("compressing %s by %s", what, request.method)
        start = time.perf_counter()
        made = METHODS[request.method](Job(request, inputs, gold, run, files, source))
        log.info("compressed in %.1f s", time.perf_counter() - start)
        artifact_sha256 = model_store.artifact_sha256(made.uri)
        _, target = _fetch(made.uri, artifact_sha256, Path(folder) / "after", "the compressed model")
        quality = _quality(source, target, gold, fitted_to_validation=inputs.fitted_to_validation)
        sizes = [file.stat().st_size / MEGABYTE for file in (source, target)]
    registry.log_classes(gold.classes)
    log_values(
        {
            **{name: value for name, value in quality.items() if value is not None},
            "model_size_bytes": sizes[1] * MEGABYTE,
            "parent_model_size_bytes": sizes[0] * MEGABYTE,
        },
        model_id=made.uri.removeprefix("models:/"),  # otherwise MLflow adds them to it in a retry only
    )
    mlflow.set_tags(
        {
            **Compression(request.method, inputs.train_run_id, inputs.version, made.images).tags,
            registry.SHA256: made.sha256,
            artifact_digest.TAG: artifact_sha256,
            "pipeline.logged_model_uri": made.uri,
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
        model_sha256=made.sha256,
    )


def _fetch(uri: str, artifact_sha256: str, folder: Path, what: str) -> tuple[Path, Path]:
    """Download a logged model into a new folder, check its files, and return these and its ONNX form."""
    folder.mkdir()
    path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    artifact_digest.require(path, artifact_sha256, what)
    description = Model.load(str(path))
    if runtime_of(description) != ONNX:
        raise ModelError(
            f"{what} has no ONNX form, because an earlier release logged it; compress a model that this release "
            "trained: give its run as trained_by, or wait for the next champion"
        )
    return path, onnx_file(path, description)


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

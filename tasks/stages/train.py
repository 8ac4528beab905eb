"""train: train one network on the gold tensors, log its progress, store the best model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import mlflow

from tasks.contract.training import TrainRequest, TrainResult
from tasks.records import (
    artifact_digest,
    gold_store,
    model_store,
    registry,
    suspected_labels,
    tuned_sets,
)
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.inputs.training import TrainInputs
from tasks.records.logged_training import LoggedTraining
from tasks.records.tracking import StageRun, use_datasets
from tasks.settings import Settings
from tasks.vision.devices import choose_device
from tasks.vision.evaluation import training_suspects
from tasks.vision.evaluation.suspected_labels import Suspect
from tasks.vision.models.classifier import digest
from tasks.vision.training.basis import basis_of
from tasks.vision.training.events import HeadFitted
from tasks.vision.training.loop import Training

LABEL_CHECK_SHARE = 0.1  # of the estimated time, at most, for the labels of training images
LABEL_CHECK_SECONDS = 5.0  # where the time was not worth an estimate

log = logging.getLogger("tasks.train")


def run(request: TrainRequest, inputs: TrainInputs, run: StageRun, settings: Settings) -> TrainResult:
    """Train, or go on from the checkpoint that an earlier try of this stage left in the run.

    Raises:
        RequestError: the device or precision is not available, or the loss became NaN or infinite.
        DataError: the gold is missing or damaged.
    """
    tuned = inputs.tuned
    tuned_sets.keep_choice(run.run_id, tuned)
    gold = gold_store.open_made_by(inputs.data.gold_run_id, inputs.data.gold_sha256, settings)
    use_datasets(run, inputs.data.prepare_run_id, "training", "validation")
    given = ", ".join(f"{name}={value}" for name, value in request.given.items())
    log.info(
        "hyperparameters: %s%s",
        f"tuned by run {tuned.run_id}" if tuned else "the defaults",
        f"; set explicitly: {given}" if given else "",
    )
    basis = basis_of(
        gold,
        [request.network(gold.dataset)] if inputs.weights else [],
        gpu=choose_device(request.device).type != "cpu",
    )
    recipe = request.recipe(basis, tuned.hyperparameters if tuned else None)
    make = _on_workers(request, inputs.data, settings) if request.workers > 1 else Training
    make = partial(make, micro_batches=request.micro_batches)
    logged = LoggedTraining(run.run_id, recipe, inputs.data, gold, inputs.weights, make=make)
    training = logged.training
    metrics, left = logged.metrics, logged.estimate
    most_seconds = LABEL_CHECK_SHARE * left.seconds if left else LABEL_CHECK_SECONDS

    def check_labels(fitted: HeadFitted) -> None:
        keep_suspects(training_suspects.by_features(fitted, gold, recipe.seed, most_seconds))

    def keep_suspects(suspects: list[Suspect]) -> None:
        suspected_labels.keep(suspects, gold)
        metrics.add(1, {suspected_labels.METRIC: float(len(suspects))})

    logged.run(check_labels)
    # After a kill, a list that the first epoch left is complete: a checkpoint follows it. Others are made again.
    if not (training.fits_head and suspected_labels.is_kept(run.run_id)):
        keep_suspects(training_suspects.by_best_network(training, gold))
        metrics.flush()

    best = training.best
    logged.log_curves(f"{recipe.model} on {gold.dataset}, {len(gold.train)} images")
    classifier = training.best_classifier()
    sha256 = digest(classifier)
    uri = model_store.log_once(classifier, gold, recipe.model, run)
    mlflow.set_tags(
        {
            registry.SHA256: sha256,
            artifact_digest.TAG: model_store.artifact_sha256(uri),
            "pipeline.logged_model_uri": uri,
        }
    )
    return TrainResult(
        **run.result_fields,
        epochs=len(training.history),
        best_epoch=best.epoch,
        validation_accuracy=best.validation_accuracy,
        images_per_second=sum(end.images_per_second for end in training.history) / len(training.history),
        model_sha256=sha256,
        tuned_by=tuned.run_id if tuned else None,
    )


def _on_workers(request: TrainRequest, data: PreparedData, settings: Settings) -> Callable[..., Training]:
    """Return what makes a training that runs on workers."""
    from tasks.distributed.stage_workers import StageWorkers  # Ray takes seconds to import
    from tasks.distributed.training import DistributedTraining

    return partial(DistributedTraining, workers=StageWorkers(request, data, settings))

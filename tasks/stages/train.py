"""train: train one network on the gold tensors, log its progress, store the best model."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import mlflow
import torch

from tasks.contract.recipe import Hyperparameters, NetworkOptions, Recipe
from tasks.contract.training import TrainRequest, TrainResult
from tasks.records import (
    artifact_digest,
    gold_store,
    model_store,
    registry,
    suspected_labels,
    trained_weights,
    tuned_sets,
)
from tasks.records.checkpoint_store import CheckpointStore
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.inputs.training import TrainInputs
from tasks.records.inputs.weights import keep_choice
from tasks.records.metric_log import MetricLog
from tasks.records.tracking import StageRun, use_datasets
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device, prepare_cpu
from tasks.vision.evaluation import training_suspects
from tasks.vision.evaluation.suspected_labels import Suspect
from tasks.vision.models import onnx_form
from tasks.vision.models.classifier import digest, parameter_counts
from tasks.vision.training import duration
from tasks.vision.training.basis import basis_of
from tasks.vision.training.curves import curves_figure
from tasks.vision.training.events import BatchEnd, EpochEnd, HeadFitted, Reading
from tasks.vision.training.loop import CHECKPOINT_FORMAT, Training

LABEL_CHECK_SHARE = 0.1  # of the estimated time, at most, for the labels of training images
LABEL_CHECK_SECONDS = 5.0  # where the time was not worth an estimate
QUIET_SECONDS = 20.0  # a line at least this often: a log stream that is silent for 60 s is cut off

log = logging.getLogger("tasks.train")


def run(request: TrainRequest, inputs: TrainInputs, run: StageRun, settings: Settings) -> TrainResult:
    """Train, or resume from the checkpoint that an earlier try of this stage left in the run.

    Raises:
        RequestError: the device or precision is not available, or the loss became NaN or infinite.
        DataError: the gold is missing or damaged.
    """
    tuned = inputs.tuned
    tuned_sets.keep_choice(run.run_id, tuned)
    keep_choice(run.run_id, inputs.weights)
    gold = gold_store.fetch_made_by(inputs.data.gold_run_id)
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
    chosen = {*Hyperparameters.model_fields, *NetworkOptions.model_fields} & set(Recipe.model_fields)
    mlflow.log_params(recipe.model_dump(mode="json", include=chosen, exclude_none=True))
    side = recipe.input_side or max(gold.shape[1:])
    prepare_cpu(recipe.batch_size * gold.shape[0] * side**2)
    training = Training(recipe, gold, trained_weights.load(inputs.weights) if inputs.weights else None)
    _describe(training, gold, inputs.data)
    onnx_form.require([recipe.model], len(gold.classes), (gold.shape[0], side, side))

    store = CheckpointStore(run.run_id)
    state = store.newest()
    if state is not None and state.get("format") != CHECKPOINT_FORMAT:
        log.warning("the checkpoint is of another release of this software; training starts again")
    elif state is not None:
        training.load_state_dict(state)
        log.info("resuming after epoch %d of %d, from the run's checkpoint", len(training.history), recipe.epochs)
    left = duration.estimate(training)
    if left is not None:
        log.info("estimated time: %s", left)
    metrics = MetricLog(run.run_id)
    most_seconds = LABEL_CHECK_SHARE * left.seconds if left else LABEL_CHECK_SECONDS

    def check_labels(fitted: HeadFitted) -> None:
        keep_suspects(training_suspects.by_features(fitted, gold, recipe.seed, most_seconds))

    def keep_suspects(suspects: list[Suspect]) -> None:
        suspected_labels.keep(suspects, gold)
        metrics.add(1, {suspected_labels.METRIC: float(len(suspects))})

    _train(training, store, metrics, check_labels)
    # After a kill, a list that the first epoch left is complete: a checkpoint follows it. Others are made again.
    if not (training.fits_head and suspected_labels.is_kept(run.run_id)):
        keep_suspects(training_suspects.by_best_network(training, gold))
        metrics.flush()

    best = training.best
    title = f"{recipe.model} on {gold.dataset}, {len(gold.train)} images"
    mlflow.log_figure(curves_figure(training.history, best, title), "plots/curves.png", save_kwargs={"dpi": 120})
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


def _describe(training: Training, gold: Gold, data: PreparedData) -> None:
    """Log the settings that the request resolved to on this machine and these data."""
    counts, recipe = parameter_counts(training.network), training.recipe
    precision = str(training.precision).removeprefix("torch.")
    mlflow.log_params(
        {f"parameters_{name}": count for name, count in counts.items()}
        | {f"augmentation_{name}": value for name, value in asdict(training.augmentation).items()}
        | {"dataset": gold.dataset, "classes": len(gold.classes), "input": list(gold.shape)}
        | {"train_images": len(gold.train), "steps_per_epoch": training.steps_per_epoch}
    )
    mlflow.set_tags(  # tags, not params: a retry may run on another machine
        {
            "pipeline.prepare_run_id": data.prepare_run_id,
            "pipeline.gold_run_id": data.gold_run_id,
            "pipeline.fingerprint": gold.fingerprint,
            "pipeline.device": training.device.type,
            "pipeline.precision": precision,
            "pipeline.threads": str(torch.get_num_threads()),
        }
    )
    mlflow.log_text(json.dumps(gold.classes), "classes.json")
    log.info(
        "%s: %s parameters, %d classes, %d training images of %s, batches of %d, on %s in %s with %d threads",
        *(recipe.model, f"{counts['total']:,}", len(gold.classes), len(gold.train), "x".join(map(str, gold.shape))),
        *(recipe.batch_size, training.device, precision, torch.get_num_threads()),
    )


def _train(
    training: Training, store: CheckpointStore, metrics: MetricLog, check_labels: Callable[[HeadFitted], None]
) -> None:
    """Run the loop to its end: metrics and a line per epoch, a checkpoint when it is worth its time and on SIGTERM."""
    clock = _Clock(training)
    unsaved: dict[str, Any] | None = None  # the state after the last epoch, if no checkpoint has it
    try:
        for event in training.run():
            match event:
                case Reading():
                    if clock.quiet():
                        clock.restart()
                        log.info("features of %d of %d images computed", event.images, event.total)
                case HeadFitted():
                    check_labels(event)
                case BatchEnd():
                    metrics.add(event.step, {"batch_loss": event.loss, "batch_learning_rate": event.learning_rate})
                    if clock.quiet():
                        log.info(
                            "epoch %d, batch %d: loss %.4f, %s", event.epoch, event.step, event.loss, clock.left(event)
                        )
                case EpochEnd():
                    metrics.add(event.epoch, {name: value for name, value in asdict(event).items() if name != "epoch"})
                    log.info("%s, %s", _line(event, training), clock.left(event))
                    if training.finished:
                        unsaved = None  # the rest takes seconds, and saves it
                    elif store.due():
                        _save(training.state_dict(), store, metrics)
                        unsaved = None
                    else:
                        unsaved = copy.deepcopy(training.state_dict())
    except SystemExit:  # SIGTERM: a few seconds are left
        if unsaved is not None:
            _save(unsaved, store, metrics)
            log.info("asked to stop (SIGTERM); a checkpoint has the %d finished epochs", len(unsaved["history"]))
        raise
    if len(training.history) < training.recipe.epochs:
        log.info("stopped early: no gain in validation accuracy for %d epochs", training.recipe.patience)
    best = training.best
    metrics.add(best.epoch, {"best_validation_accuracy": best.validation_accuracy, "best_epoch": float(best.epoch)})
    _save(training.state_dict(), store, metrics)


def _save(state: dict[str, Any], store: CheckpointStore, metrics: MetricLog) -> None:
    metrics.flush()  # a later try does not repeat these steps
    store.save(state, len(state["history"]))


def _line(end: EpochEnd, training: Training) -> str:
    return (
        f"epoch {end.epoch}/{training.recipe.epochs}: "
        f"train loss {end.train_loss:.4f}, accuracy {end.train_accuracy:.4f}; "
        f"validation loss {end.validation_loss:.4f}, accuracy {end.validation_accuracy:.4f}"
        f"{' (best)' if training.best is end else ''}; "
        f"learning rate {end.learning_rate:.2g}; {end.images_per_second:.0f} images/s"
    )


class _Clock:
    """Estimates the time left, and tells when nothing was logged for too long."""

    def __init__(self, training: Training) -> None:
        self._per_epoch = training.steps_per_epoch
        self._steps = training.recipe.epochs * self._per_epoch
        self._first = len(training.history) * self._per_epoch
        self._started = self._spoke = time.monotonic()

    def quiet(self) -> bool:
        return time.monotonic() - self._spoke > QUIET_SECONDS

    def restart(self) -> None:
        """Count from here: a line was logged."""
        self._spoke = time.monotonic()

    def left(self, event: BatchEnd | EpochEnd) -> str:
        """Estimate how long the remaining steps take at the pace so far; the caller then logs a line."""
        self._spoke = time.monotonic()
        step = event.step if isinstance(event, BatchEnd) else event.epoch * self._per_epoch
        seconds = (self._spoke - self._started) / (step - self._first) * (self._steps - step)
        return f"{duration.text_of(seconds)} left"

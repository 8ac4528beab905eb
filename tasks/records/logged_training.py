"""Runs a training in an MLflow run: settings, metrics, a line per epoch, checkpoints, from which a retry goes on."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import mlflow
import torch

from tasks.contract.recipe import Hyperparameters, NetworkOptions, Recipe
from tasks.records import registry, trained_weights
from tasks.records.checkpoint_store import CheckpointStore
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.inputs.weights import Weights, keep_choice
from tasks.records.metric_log import MetricLog
from tasks.records.store_wait import StoreWait
from tasks.settings import load_settings
from tasks.vision.data.gold import Gold
from tasks.vision.devices import prepare_cpu
from tasks.vision.models import onnx_form
from tasks.vision.models.classifier import Classifier, parameter_counts
from tasks.vision.training import duration
from tasks.vision.training.curves import curves_figure
from tasks.vision.training.distillation import Distillation
from tasks.vision.training.events import QUIET_SECONDS, BatchEnd, EpochEnd, HeadFitted, Pause, Placed, Reading
from tasks.vision.training.loop import FORMATS, Training

MOST_CHARACTERS = 5000  # of a tag's value
# What of a recipe is in the params of its run.
CHOSEN = frozenset({*Hyperparameters.model_fields, *NetworkOptions.model_fields} & set(Recipe.model_fields))

log = logging.getLogger("tasks.train")


class LoggedTraining:
    """One training and the run that it is logged to."""

    def __init__(
        self,
        run_id: str,
        recipe: Recipe,
        data: PreparedData,
        gold: Gold,
        weights: Weights | None,
        *,
        classifier: Classifier | None = None,
        distillation: Distillation | None = None,
        make: Callable[..., Training] = Training,
    ) -> None:
        """Log the settings, resume from the checkpoint that an earlier try left in the run, estimate what is left.

        Args:
            run_id: the run, which is active.
            recipe: what to do.
            data: where the images come from.
            gold: the images.
            weights: those to start from; None: random ones.
            classifier: see `Training`. The run says already which weights it was trained from.
            distillation: see `Training`.
            make: what makes the training; by default one in this process.

        Raises:
            RequestError: the device or precision is not available, or the network has no ONNX form.
            DataError: the weights were changed, or the images are not what the network takes.
            ChangedError: a checkpoint is not one that this run logged.
            ModelError: the weights are those of another network.
        """
        if classifier is None:
            keep_choice(run_id, weights)
        mlflow.log_params(recipe.model_dump(mode="json", include={*CHOSEN}, exclude_none=True))
        side = recipe.input_side or max(gold.shape[1:])
        prepare_cpu(recipe.batch_size * gold.shape[0] * side**2)
        trained = trained_weights.load(weights) if weights else None
        self.training = make(recipe, gold, trained, classifier=classifier, distillation=distillation)
        _describe(self.training, gold, data)
        if classifier is None:
            onnx_form.require([recipe.model], len(gold.classes), (gold.shape[0], side, side))
        self._wait = StoreWait(load_settings().pipeline_store_wait_seconds)
        self.metrics = MetricLog(run_id, wait=self._wait)
        self._store = CheckpointStore(run_id, self._wait)
        self._resume()
        self.estimate = duration.estimate(self.training) if self.training.runs_here else None
        if self.estimate is not None:
            log.info("estimated time: %s", self.estimate)

    def _resume(self) -> None:
        state = self._store.newest()
        if state is not None and state.get("format") not in FORMATS:
            log.warning("the checkpoint is of another release of this software; training starts again")
        elif state is not None:
            self.training.load_state_dict(state)
            done, epochs = len(self.training.history), self.training.recipe.epochs
            batch = self.training.steps_done - done * self.training.steps_per_epoch
            place = f"batch {batch} of epoch {done + 1}" if batch else f"epoch {done}"
            log.info("resuming after %s of %d, from the run's checkpoint", place, epochs)

    def run(self, head_fitted: Callable[[HeadFitted], None] = lambda event: None) -> None:
        """Train to the end; `head_fitted` is called once the last layer alone was fitted, if the recipe begins so.

        A checkpoint is written when it is worth its time, at the end, and on SIGTERM.

        Raises:
            RequestError: the loss became NaN or infinite.
            UnavailableError: MLflow or its store was away for too long while a metric or a checkpoint was due.
        """
        training, clock = self.training, _Clock(self.training)
        unsaved: dict[str, Any] | None = None  # the state after the last epoch, if no checkpoint has it
        try:
            for event in training.run():
                match event:
                    case Placed():
                        _tell_placed(event)
                        clock = _Clock(training)
                    case Reading():
                        if clock.quiet():
                            clock.restart()
                            log.info("features of %d of %d images computed", event.images, event.total)
                    case HeadFitted():
                        head_fitted(event)
                    case BatchEnd():
                        self.metrics.add(
                            event.step, {"batch_loss": event.loss, "batch_learning_rate": event.learning_rate}
                        )
                        if clock.quiet():
                            progress = (event.epoch, event.step, event.loss, clock.left(event))
                            log.info("epoch %d, batch %d: loss %.4f, %s", *progress)
                    case Pause():
                        if self._store.due():
                            self._save(training.state_dict())
                            unsaved = None
                    case EpochEnd():
                        self.metrics.add(event.epoch, event.metrics)
                        log.info("%s, %s", _line(event, training), clock.left(event))
                        if training.finished:
                            unsaved = None  # the rest takes seconds, and saves it
                        elif self._store.due():
                            self._save(training.state_dict())
                            unsaved = None
                        else:
                            unsaved = copy.deepcopy(training.state_dict())
        except SystemExit:  # SIGTERM: a few seconds are left
            self._wait.stop_waiting()
            if unsaved is not None:
                self._save(unsaved)
                log.info("asked to stop (SIGTERM); a checkpoint has the %d finished epochs", len(unsaved["history"]))
            raise
        if len(training.history) < training.recipe.epochs:
            log.info("stopped early: no gain in validation accuracy for %d epochs", training.recipe.patience)
        best = training.best
        self.metrics.add(
            best.epoch, {"best_validation_accuracy": best.validation_accuracy, "best_epoch": float(best.epoch)}
        )
        self._save(training.state_dict())

    def log_curves(self, title: str) -> None:
        """Log the plot of losses and accuracies over the epochs."""
        figure = curves_figure(self.training.history, self.training.best, title)
        mlflow.log_figure(figure, "plots/curves.png", save_kwargs={"dpi": 120})

    def _save(self, state: dict[str, Any]) -> None:
        self.metrics.flush()  # a later try does not repeat these steps
        self._store.save(state, len(state["history"]), state["position"]["steps"] if "position" in state else 0)


def _describe(training: Training, gold: Gold, data: PreparedData) -> None:
    """Log the settings that the request resolved to on this machine and these data."""
    counts, recipe, parts = parameter_counts(training.network), training.recipe, training.micro_batches
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
            "pipeline.micro_batches": str(parts),
        }
    )
    registry.log_classes(gold.classes)
    log.info(
        "%s: %s parameters, %d classes, %d training images of %s, batches of %d%s, on %s in %s with %d threads",
        *(recipe.model, f"{counts['total']:,}", len(gold.classes), len(gold.train), "x".join(map(str, gold.shape))),
        *(recipe.batch_size, f" in {parts} parts" if parts > 1 else "", training.device),
        *(precision, torch.get_num_threads()),
    )


def _tell_placed(placed: Placed) -> None:
    """Say where the workers run; the run's tags say so too, in place of what this process would train on."""
    machines = ", ".join(sorted(set(placed.machines)))
    mlflow.set_tags(
        {
            "pipeline.workers": str(len(placed.machines)),
            "pipeline.machines": machines[:MOST_CHARACTERS],
            "pipeline.device": placed.device,
            "pipeline.precision": placed.precision,
            "pipeline.threads": str(placed.threads),
        }
    )
    log.info(
        "%d workers on %s: on %s in %s with %d threads each",
        *(len(placed.machines), machines, placed.device, placed.precision, placed.threads),
    )


def _line(end: EpochEnd, training: Training) -> str:
    waited = "" if end.data_wait_share is None else f", {end.data_wait_share:.0%} of the time waiting for data"
    return (
        f"epoch {end.epoch}/{training.recipe.epochs}: "
        f"train loss {end.train_loss:.4f}, accuracy {end.train_accuracy:.4f}; "
        f"validation loss {end.validation_loss:.4f}, accuracy {end.validation_accuracy:.4f}"
        f"{' (best)' if training.best is end else ''}; "
        f"learning rate {end.learning_rate:.2g}; {end.images_per_second:.0f} images/s{waited}"
    )


class _Clock:
    """Estimates the time left, and tells when nothing was logged for too long."""

    def __init__(self, training: Training) -> None:
        self._per_epoch = training.steps_per_epoch
        self._steps = training.recipe.epochs * self._per_epoch
        self._first = training.steps_done
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

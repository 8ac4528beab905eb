"""train and tune: their requests, their results, and their entries in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from tasks.contract.messages import (
    REGISTERED_MODEL,
    ModelName,
    ReusableRequest,
    RunId,
    StageResult,
    UpstreamRunId,
    UpstreamTags,
)
from tasks.contract.networks import Architecture
from tasks.contract.recipe import EPOCHS, Basis, Hyperparameters, TrainingRequest
from tasks.contract.resources import StageResources
from tasks.contract.search_space import Dimension, SearchSpace, require_searchable
from tasks.contract.stage import Stage
from tasks.contract.workers import WORKER_CPUS, WORKERS
from tasks.text_table import short

# Of a run that made a model, by training or by compression.
MODEL_TAGS = (
    "pipeline.logged_model_uri",
    "pipeline.model_sha256",
    "pipeline.artifact_sha256",
    "pipeline.sha256.classes.json",
    "pipeline.prepare_run_id",
    "pipeline.fingerprint",
    "pipeline.tune_run_id",
    "pipeline.compression",
    "pipeline.compressed_from_run_id",
    "pipeline.compressed_from_version",
    "pipeline.calibration_images",
)


class TrainRequest(ReusableRequest, TrainingRequest):
    """Train one model on the gold tensors of a prepare run."""

    section: ClassVar[str] = "Training"

    prepare_run_id: UpstreamRunId
    hyperparameters: Literal["tuned", "default"] = Field(
        "tuned",
        description="Source of the values that are not set. `tuned`: the newest tuned set of this registered model, "
        "data set and network whose model became champion, else the defaults. `default`: the defaults.",
    )
    tuned_by: RunId | None = Field(
        None, description="ID of a tune run; its best hyperparameters are used in place of any others."
    )
    workers: int = WORKERS
    worker_cpus: int | None = WORKER_CPUS
    worker_gpus: int | None = Field(
        None, ge=0, le=1, description="GPUs per worker, 0 or 1. Default: 1 if there are as many as workers, else 0."
    )
    sync_batch_norm: bool = Field(
        False,
        description="Batch normalisation uses the images of all workers: slower; for few images per worker.",
    )
    micro_batches: int = Field(
        1,
        ge=1,
        le=4096,
        description="Parts in which each batch, or each worker's share of it, passes through the network; their "
        "gradients are added up for one step. For batches that do not fit into the memory of a device.",
    )
    prepare_tags: UpstreamTags = None
    tune_tags: UpstreamTags = None
    registered_model: ModelName = REGISTERED_MODEL

    outside_of_reuse: ClassVar[frozenset[str]] = ReusableRequest.outside_of_reuse | {"tuned_by"}

    @property
    def uses_ray(self) -> bool:
        """Only for several workers."""
        return self.workers > 1


class TrainResult(StageResult):
    """`run_id` leads to the best model, its classes, curves and checkpoints."""

    epochs: int = Field(ge=1, description="Epochs run; fewer than requested if training stopped early.")
    best_epoch: int = Field(ge=1)
    validation_accuracy: float = Field(ge=0, le=1)
    images_per_second: float = Field(ge=0)
    model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the architecture and weights.")
    tuned_by: RunId | None = Field(description="The search that chose the hyperparameters; null for the defaults.")

    @property
    def headline(self) -> str:
        """The best validation accuracy, its epoch, and the search behind the hyperparameters."""
        tuned_by = getattr(self, "tuned_by", None)  # results of the first releases have none
        tuned = f", tuned by {tuned_by}" if tuned_by else ""
        return f"validation accuracy {self.validation_accuracy:.4f}, epoch {self.best_epoch}{tuned}"


class TuneRequest(ReusableRequest, TrainingRequest):
    """Search for the best hyperparameters of a network on the gold tensors; those set explicitly are not searched."""

    section: ClassVar[str] = "Tuning"

    prepare_run_id: UpstreamRunId
    prepare_tags: UpstreamTags = None
    trials: int = Field(20, ge=1, le=10_000, description="Number of trials.")
    search_space: Annotated[SearchSpace, WithJsonSchema({"type": "object"})] = Field(
        SearchSpace(),
        description='For each hyperparameter an interval, like {"low": 0.01, "high": 0.1, "log": true}, or a list '
        "of values; null leaves it out of the search.",
    )
    searcher: Literal["random", "grid", "optuna", "hyperopt"] = Field(
        "optuna", description="How the next trial is chosen; optuna and hyperopt (TPE) learn from the earlier ones."
    )
    scheduler: Literal["asha", "hyperband", "median", "none"] = Field(
        "asha", description="Rule that stops weak trials before their last epoch."
    )
    metric: Literal["validation_accuracy", "validation_loss"] = Field(
        "validation_accuracy", description="Metric that ranks the trials; never measured on test images."
    )
    grace_epochs: int = Field(2, ge=1, description="Epochs that every trial runs before it may be stopped.")
    reduction_factor: int = Field(3, ge=2, description="At each rung, one in this many trials continues.")
    concurrent_trials: int | None = Field(
        None, ge=1, description="Trials that run at the same time. Default: as many as fit."
    )
    trial_workers: int = Field(
        1, ge=1, le=1024, description="Processes that train each trial together, each on its share of every batch."
    )
    trial_cpus: float = Field(
        1, gt=0, description="CPU cores per trial, of the machine or cluster; with several workers, of each, whole."
    )
    trial_gpus: float = Field(
        0, ge=0, description="GPUs per trial; with 0.5, two trials share one. With several workers, of each, 0 or 1."
    )

    @property
    def uses_ray(self) -> bool:
        """Trials run on it."""
        return True

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """What the search chooses, by name: the search space without the values that are set explicitly."""
        return self.search_space.dimensions(tuple(self.given))

    @model_validator(mode="after")
    def _has_whole_workers(self) -> Self:
        if self.trial_workers > 1 and self.trial_cpus != int(self.trial_cpus):
            raise ValueError(
                f"trial_cpus={self.trial_cpus:g} is no whole number, and trial_workers={self.trial_workers} need whole "
                f"cores; set trial_cpus to {ceil(self.trial_cpus)}"
            )
        if self.trial_workers > 1 and self.trial_gpus not in (0, 1):
            raise ValueError(
                f"trial_gpus={self.trial_gpus:g} is neither 0 nor 1, and each of trial_workers={self.trial_workers} "
                "has one GPU or none; set trial_gpus to 0 or 1"
            )
        return self

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        require_searchable(self.dimensions, self.searcher, self.trials)
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs={self.grace_epochs} is more than epochs={self.max_epochs}; lower it")
        if self.finetune == "head":
            raise ValueError(
                "finetune='head' finds its only hyperparameter itself; choose 'gradual' or 'full' to search"
            )
        return self

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that is not stopped early."""
        return self.epochs or EPOCHS

    def settled(self, basis: Basis) -> Self:
        """Set the number of epochs, which all trials share, by the basis if it is open."""
        epochs = self.recipe(basis).epochs
        return self.model_copy(update={"epochs": epochs, "grace_epochs": min(self.grace_epochs, epochs)})


class TuneResult(StageResult):
    """`run_id` leads to a run for each trial, a table, plots and the best hyperparameters."""

    model: Architecture
    hyperparameters: Hyperparameters = Field(description="The best set found, complete.")
    metric: str
    best_value: float = Field(description="Value of `metric` in the best trial's best epoch.")
    best_trial: int = Field(ge=0, description="Number of the best trial, counted from 0.")
    finished: int = Field(ge=1, description="Trials that trained all their epochs.")
    stopped: int = Field(ge=0, description="Trials that the scheduler ended early.")
    failed: int = Field(ge=0)
    epochs: int = Field(ge=1, description="Epochs trained, all trials together.")

    @property
    def headline(self) -> str:
        """The best value, how the trials ended, and the hyperparameters found."""
        best = f"{self.metric.replace('_', ' ')} {self.best_value:.4f} in trial {self.best_trial}"
        trials = ", ".join(f"{getattr(self, state)} {state}" for state in ("finished", "stopped", "failed"))
        # In a stored result they are a mapping, not validated: the limits may have changed since.
        values = ", ".join(f"{name} {short(value)}" for name, value in dict(self.hyperparameters).items())
        return f"{best} ({trials}): {self.model}, {values}"


STAGES = (
    Stage(
        "tune",
        TuneRequest,
        TuneResult,
        extra="tune",
        resources=StageResources(memory="16g", shm_size="4g"),
        inputs="tasks.records.inputs.training:TuneInputs",
        depends_on="data, weights, search and code",
        hands_over=("pipeline.hyperparameters", "pipeline.model", "pipeline.dataset"),
    ),
    Stage(
        "train",
        TrainRequest,
        TrainResult,
        extra="tune",
        resources=StageResources(memory="16g", shm_size="4g"),
        inputs="tasks.records.inputs.training:TrainInputs",
        depends_on="data, weights, hyperparameters and code",
        hands_over=MODEL_TAGS,
    ),
)

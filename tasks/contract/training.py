"""train and tune: what is asked of them, what they answer, and their entries in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from tasks.contract.messages import (
    REGISTERED_MODEL,
    ModelName,
    ReusableRequest,
    RunId,
    StageResult,
    UpstreamRunId,
)
from tasks.contract.networks import Architecture
from tasks.contract.recipe import Hyperparameters, TrainingRequest
from tasks.contract.resources import StageResources
from tasks.contract.search_space import Dimension, SearchSpace, require_searchable
from tasks.contract.stage import Stage
from tasks.text_table import short


class TrainRequest(ReusableRequest, TrainingRequest):
    """Train one model on the gold tensors of a prepare run."""

    section: ClassVar[str] = "Training"

    prepare_run_id: UpstreamRunId
    hyperparameters: Literal["tuned", "default"] = Field(
        "tuned",
        description="What is used for values not given: the newest tuned set of this registered model, data set and "
        "network whose model became champion, if there is one; or the defaults.",
    )
    tuned_by: RunId | None = Field(None, description="A tune run, to use its best hyperparameters and no others.")
    registered_model: ModelName = REGISTERED_MODEL


class TrainResult(StageResult):
    """Found through `run_id`: the best model, its classes, curves and checkpoints."""

    epochs: int = Field(ge=1, description="Epochs run; fewer than asked when training stopped early.")
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
    """Search the hyperparameters with which one network learns the gold tensors best; those given are not searched."""

    section: ClassVar[str] = "Tuning"

    prepare_run_id: UpstreamRunId
    trials: int = Field(20, ge=1, le=10_000, description="Trainings to try.")
    search_space: Annotated[SearchSpace, WithJsonSchema({"type": "object"})] = Field(
        SearchSpace(),
        description='Interval, like {"low": 0.01, "high": 0.1, "log": true}, or list for each; null is not searched.',
    )
    searcher: Literal["random", "grid", "optuna", "hyperopt"] = Field(
        "optuna", description="How the next trial is chosen; optuna and hyperopt (TPE) learn from the earlier ones."
    )
    scheduler: Literal["asha", "hyperband", "median", "none"] = Field(
        "asha", description="Which trials are stopped before their last epoch."
    )
    metric: Literal["validation_accuracy", "validation_loss"] = Field(
        "validation_accuracy", description="What makes a trial the best; never measured on test images."
    )
    grace_epochs: int = Field(2, ge=1, description="Epochs that every trial gets before it may be stopped.")
    reduction_factor: int = Field(3, ge=2, description="Of so many trials, one goes on at each rung.")
    concurrent_trials: int | None = Field(None, ge=1, description="Trials at a time. Default: as many as fit.")
    trial_cpus: float = Field(1, gt=0, description="Cores of one trial; its share of the machine or cluster.")
    trial_gpus: float = Field(0, ge=0, description="GPUs of one trial; 0.5 puts two on one.")

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """What there is to choose, by name: the search space without what is given by hand."""
        return self.search_space.dimensions(tuple(self.given))

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        require_searchable(self.dimensions, self.searcher, self.trials)
        if self.grace_epochs > self.epochs:
            raise ValueError(f"grace_epochs={self.grace_epochs} is more than epochs={self.epochs}; lower it")
        return self


class TuneResult(StageResult):
    """Found through `run_id`: a run for each trial, table, plots, the best hyperparameters."""

    model: Architecture
    hyperparameters: Hyperparameters = Field(description="The best found, complete.")
    metric: str
    best_value: float = Field(description="Of `metric`, in the best trial's best epoch.")
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
        # As stored the hyperparameters are a mapping, not checked again: limits may have changed since.
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
        depends_on="data, search and code",
    ),
    Stage(
        "train",
        TrainRequest,
        TrainResult,
        extra="vision",
        resources=StageResources(memory="16g", shm_size="1g"),
        inputs="tasks.records.inputs.training:TrainInputs",
        depends_on="data, hyperparameters and code",
    ),
)

"""What a stage is asked and what it answers: one request and one result per stage.

A request field **with a default** is a parameter: it becomes a field of the DAG's form in the Airflow UI, with the
limits and the text given here. A field **without a default** is the baton: it comes from an earlier stage.
Results are small JSON (IDs, numbers, one verdict); data, weights and plots are found through `run_id` in MLflow.
This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from tasks.contract.datasets import CHOICES, DatasetName, require_source
from tasks.contract.gate_policy import GatePolicy
from tasks.contract.messages import Message, ReusableRequest, RunId, StageRequest, StageResult, parse
from tasks.contract.networks import Architecture
from tasks.contract.recipe import Hyperparameters, TrainingRequest
from tasks.contract.search_space import Dimension, SearchSpace, require_searchable
from tasks.errors import RequestError, ResultError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Baton = Annotated[RunId, Field(examples=["0" * 32])]  # the example stands in for it where parameters are checked alone
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

REGISTERED_MODEL = Field(
    "vision-classifier",
    description="Registered model that the result competes for. Give a task with other classes a name of its own.",
)


class PrepareRequest(ReusableRequest):
    """Read a data set and make train, validation and test tensors of it."""

    section: ClassVar[str] = "Data"

    dataset: DatasetName = Field("digits", description=f"Data set: {CHOICES}.")
    source: str | None = Field(
        None,
        description="For `image_folder`: a folder, .tar, .tar.gz or .zip, local or s3://, "
        "holding train/CLASS/* and perhaps test/CLASS/* and metadata.csv.",
    )
    image_size: int | None = Field(
        None, ge=8, le=512, description="Side of the square images, in pixels. Default: as the data set has it, or 32."
    )
    validation_fraction: Fraction = Field(0.15, description="Share of the training images kept for validation.")
    test_fraction: Fraction = Field(0.2, description="Share kept for the test set where the source has none.")
    licence: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Licence of the images, for the model card. Default: what the authors of a known data set state.",
    )
    data_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the splits.")
    registered_model: ModelName = REGISTERED_MODEL

    @model_validator(mode="after")
    def _source_fits_dataset(self) -> Self:
        require_source(self.dataset, self.source)
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} and test_fraction={self.test_fraction} "
                "leave no training images; make their sum less than 1"
            )
        return self


class PrepareResult(StageResult):
    """Found through `run_id`: gold tensors, manifest, removals, histogram, sample grid."""

    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="Same source and settings, same fingerprint.")
    reused: bool = Field(description="Whether an earlier run's gold was taken instead of being made again.")
    classes: int = Field(ge=2)
    train_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    removed_images: int = Field(ge=0)


class TrainRequest(ReusableRequest, TrainingRequest):
    """Train one model on the gold tensors of a prepare run."""

    section: ClassVar[str] = "Training"

    prepare_run_id: Baton
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


class TuneRequest(ReusableRequest, TrainingRequest):
    """Search the hyperparameters with which one network learns the gold tensors best; those given are not searched."""

    section: ClassVar[str] = "Tuning"

    prepare_run_id: Baton
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


class EvaluateRequest(ReusableRequest, GatePolicy):
    """Score a trained model beside the champion on the same test images and judge it by the policy."""

    section: ClassVar[str] = "Promotion"

    train_run_id: Baton
    registered_model: ModelName = REGISTERED_MODEL

    @property
    def policy(self) -> GatePolicy:
        """The limits of the gate, alone."""
        return GatePolicy(**{name: getattr(self, name) for name in GatePolicy.model_fields})


class EvaluateResult(StageResult):
    """Found through `run_id`: both models' predictions, tables, plots, report, verdict, probe images with answers."""

    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)
    promote: bool
    reason: str = Field(description="The verdict in one line.")
    champion_version: int | None = Field(description="Version compared with; null when there was no champion.")
    champion_accuracy: float | None = Field(ge=0, le=1, description="The champion's accuracy on the same images.")
    table: str = Field(description="The rows of evidence as a Markdown table.", repr=False)


class Approval(Message):
    """What a person said to the evidence; nothing where nobody was asked."""

    approved: bool | None = None
    by: str | None = None
    at: datetime | None = None
    comment: str = ""

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.approved is not None and not (self.by and self.at):
            raise ValueError(f"approved={self.approved} without by and at; the task that asked gives all three")
        return self


class RegisterRequest(StageRequest):
    """Make a version of the evaluated model; move `champion` to it when the verdict, and who was asked, say so."""

    section: ClassVar[str] = "Promotion"

    evaluate_run_id: Baton
    approval: Approval = Field(examples=[{}])
    require_approval: bool = Field(
        False, description="Ask a person before a model that passed the gate becomes champion."
    )
    registered_model: ModelName = REGISTERED_MODEL


class RegisterResult(StageResult):
    """Found through `run_id`: what was registered, and why."""

    registered_model: ModelName
    version: int = Field(ge=1)
    created: bool = Field(description="False when this very model was a version before this task.")
    promoted: bool = Field(description="Whether `champion` names this version now.")
    previous_champion: int | None
    reason: str = Field(description="Why it was promoted, refused, or left as it was.")


class RollbackRequest(StageRequest):
    """Make an earlier version the champion again."""

    section: ClassVar[str] = "Rollback"

    registered_model: ModelName = REGISTERED_MODEL
    version: int | None = Field(None, ge=1, description="Version to go back to. Default: the champion before this one.")
    reason: str = Field("", max_length=500, description="Why; kept in the ledger.", json_schema_extra={"minLength": 1})

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.reason.strip():
            raise ValueError(f"reason={self.reason!r}: say why, for those who read the ledger")
        return self


class RollbackResult(StageResult):
    """The move that was made."""

    registered_model: ModelName
    version: int = Field(ge=1, description="The champion now.")
    previous_version: int = Field(ge=1, description="The champion before.")


class DeployRequest(StageRequest):
    """Put a version into service and prove that it answers as it did in evaluate."""

    section: ClassVar[str] = "Deployment"

    registered_model: ModelName = REGISTERED_MODEL
    version: int = Field(ge=1, examples=[1])
    deploy_timeout: int = Field(180, ge=5, le=3600, description="Seconds to wait for the service.")


class DeployResult(StageResult):
    """Found through `run_id`: the answers compared."""

    registered_model: ModelName
    version: int = Field(ge=1)
    url: str
    started: bool = Field(description="Whether the local service had to be started.")
    answers_checked: int = Field(ge=0)
    replicas: int = Field(ge=0, description="Servers that answered with this version.")
    skipped: str | None = Field(None, description="Why it was not put into service; null when it was.")


@dataclass(frozen=True)
class StageContract:
    """The pair of models of one stage."""

    request: type[StageRequest]
    result: type[StageResult]

    def parse_request(self, text: str | bytes | Mapping[str, Any]) -> StageRequest:
        """Check a request, JSON or mapping.

        Raises:
            RequestError: naming each field that is wrong, its value and what would do.
        """
        return parse(self.request, text, RequestError)

    @property
    def batons(self) -> dict[str, Any]:
        """An example of each field that an earlier stage gives, by name."""
        fields = self.request.model_fields.items()
        return {name: field.examples[0] for name, field in fields if field.is_required() and field.examples}

    def parse_result(self, text: str | bytes | Mapping[str, Any]) -> StageResult:
        """Check a result, JSON or mapping.

        Raises:
            ResultError: naming each field that is wrong.
        """
        return parse(self.result, text, ResultError)


STAGES: dict[str, StageContract] = {
    "prepare": StageContract(PrepareRequest, PrepareResult),
    "tune": StageContract(TuneRequest, TuneResult),
    "train": StageContract(TrainRequest, TrainResult),
    "evaluate": StageContract(EvaluateRequest, EvaluateResult),
    "register": StageContract(RegisterRequest, RegisterResult),
    "rollback": StageContract(RollbackRequest, RollbackResult),
    "deploy": StageContract(DeployRequest, DeployResult),
}


def parameters(request: type[StageRequest]) -> dict[str, dict[str, Any]]:
    """JSON schema of each parameter (field with a default) of a request, by name."""
    properties: dict[str, dict[str, Any]] = request.model_json_schema()["properties"]
    return {name: properties[name] for name, field in request.model_fields.items() if not field.is_required()}

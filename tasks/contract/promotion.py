"""evaluate, register and rollback: their requests, their results, and their entries in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Self

from pydantic import Field, model_validator

from tasks.contract.gate_policy import GatePolicy
from tasks.contract.messages import (
    REGISTERED_MODEL,
    Message,
    ModelName,
    ReusableRequest,
    StageRequest,
    StageResult,
    UpstreamRunId,
    UpstreamTags,
)
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage
from tasks.contract.workers import WORKER_CPUS, WORKERS

LIGHT = StageResources(cpus=1, memory="1g", cpu_request=0.1)


class EvaluateRequest(ReusableRequest, GatePolicy):
    """Evaluate a trained model and the champion on the same test images, and judge it by the policy."""

    section: ClassVar[str] = "Promotion"

    train_run_id: UpstreamRunId
    train_tags: UpstreamTags = None
    prepare_tags: UpstreamTags = None
    workers: int = WORKERS
    worker_cpus: int | None = WORKER_CPUS
    registered_model: ModelName = REGISTERED_MODEL

    outside_of_reuse: ClassVar[frozenset[str]] = ReusableRequest.outside_of_reuse | {"workers", "worker_cpus"}

    @property
    def uses_ray(self) -> bool:
        """Only for several workers, and only a cluster: on one machine the stage uses all cores itself."""
        return self.workers > 1

    @property
    def policy(self) -> GatePolicy:
        """The limits of the gate, without the other fields."""
        return GatePolicy(**{name: getattr(self, name) for name in GatePolicy.model_fields})


class EvaluateResult(StageResult):
    """`run_id` leads to both models' predictions, tables, plots, report, verdict and reference predictions."""

    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)
    promote: bool
    reason: str = Field(description="The verdict in one line.")
    champion_version: int | None = Field(description="The champion that it was compared with; null if there was none.")
    champion_accuracy: float | None = Field(ge=0, le=1, description="The champion's accuracy on the same images.")
    table: str = Field(description="The rows of evidence as a Markdown table.", repr=False)

    @property
    def headline(self) -> str:
        """The test accuracy and the decision of the gate."""
        return f"test accuracy {self.accuracy:.4f}, {'promoted' if self.promote else 'refused'}"


class Approval(Message):
    """A person's decision on the evidence; empty if nobody was asked."""

    approved: bool | None = None
    by: str | None = None
    at: datetime | None = None
    comment: str = ""
    evidence: str | None = Field(None, description="SHA-256 of the table of evidence that the person saw.")

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.approved is not None and not (self.by and self.at):
            raise ValueError(f"approved={self.approved} without by and at; the approval task sets all three")
        return self


class RegisterRequest(StageRequest):
    """Register the evaluated model; make it the champion if the verdict, and the approver if one was asked, agree."""

    section: ClassVar[str] = "Promotion"

    evaluate_run_id: UpstreamRunId
    evaluate_tags: UpstreamTags = None
    train_tags: UpstreamTags = None
    approval: Approval = Field(examples=[{}])
    require_approval: bool = Field(
        False, description="Ask a person before a model that passed the gate becomes champion."
    )
    registered_model: ModelName = REGISTERED_MODEL


class RegisterResult(StageResult):
    """What was registered, and why."""

    registered_model: ModelName
    version: int = Field(ge=1)
    created: bool = Field(description="False if this exact model had been registered before this task.")
    promoted: bool = Field(description="Whether `champion` points to this version now.")
    previous_champion: int | None
    reason: str = Field(description="Why it was promoted, refused or left unchanged.")

    @property
    def headline(self) -> str:
        """The version, its alias, and whether it was registered before."""
        state = "champion" if self.promoted else "challenger"
        known = "" if self.created else ", already registered"
        return f"{self.registered_model} version {self.version}, {state}{known}"


class RollbackRequest(StageRequest):
    """Make an earlier version the champion again."""

    section: ClassVar[str] = "Rollback"

    registered_model: ModelName = REGISTERED_MODEL
    version: int | None = Field(None, ge=1, description="Version to go back to. Default: the champion before this one.")
    reason: str = Field("", max_length=500, description="Why; kept in the ledger.", json_schema_extra={"minLength": 1})

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.reason.strip():
            raise ValueError(f"reason={self.reason!r}: state a reason; the ledger keeps it")
        return self


class RollbackResult(StageResult):
    """The move that was made."""

    registered_model: ModelName
    version: int = Field(ge=1, description="The champion now.")
    previous_version: int = Field(ge=1, description="The champion before.")

    @property
    def headline(self) -> str:
        """The champion now and the one before."""
        return f"{self.registered_model} version {self.version}, was {self.previous_version}"


STAGES = (
    Stage(
        "evaluate",
        EvaluateRequest,
        EvaluateResult,
        extra="tune",
        resources=StageResources(memory="8g", shm_size="1g"),
        inputs="tasks.records.inputs.evaluation:EvaluateInputs",
        depends_on="model, champion, policy and code",
        hands_over=(
            "pipeline.train_run_id",
            "pipeline.gold_sha256",
            "pipeline.promote",
            "pipeline.sha256.evidence.json",
            "pipeline.sha256.verdict.json",
            "pipeline.sha256.probes.json",
        ),
    ),
    Stage("register", RegisterRequest, RegisterResult, extra="client", resources=LIGHT, changes_registry=True),
    # With torch, to export a version of an earlier release to ONNX before it goes into service (decision 22).
    Stage(
        "rollback",
        RollbackRequest,
        RollbackResult,
        extra="vision",
        resources=StageResources(cpus=1, memory="4g", cpu_request=0.1),
        changes_registry=True,
    ),
)

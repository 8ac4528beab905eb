"""deploy: its request, its result, and its entry in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.contract.messages import REGISTERED_MODEL, ModelName, StageRequest, StageResult
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage


class DeployRequest(StageRequest):
    """Put a version into service and check that it gives the same answers as in evaluate."""

    section: ClassVar[str] = "Deployment"

    registered_model: ModelName = REGISTERED_MODEL
    version: int = Field(ge=1, examples=[1])
    deploy_timeout: int = Field(180, ge=5, le=3600, description="Seconds to wait for the service.")


class DeployResult(StageResult):
    """`run_id` leads to the compared answers."""

    registered_model: ModelName
    version: int = Field(ge=1)
    url: str
    started: bool = Field(description="Whether this stage started the local service.")
    answers_checked: int = Field(ge=0)
    replicas: int = Field(ge=0, description="Replicas that serve this version.")
    skipped: str | None = Field(None, description="Why it was not put into service; null when it was.")

    @property
    def headline(self) -> str:
        """The version and its address, or why it was not put into service."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        return f"version {self.version} at {self.url}, {self.answers_checked} answers equal"


STAGES = (
    Stage(
        "deploy",
        DeployRequest,
        DeployResult,
        extra="client",
        resources=StageResources(cpus=1, memory="1g", cpu_request=0.1),
        calls_service=True,
        changes_registry=True,
    ),
)

"""clean: its request, its result, and its entry in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.contract.messages import StageRequest, StageResult
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage


class CleanRequest(StageRequest):
    """Remove what nothing needs any longer."""

    section: ClassVar[str] = "Cleaning"

    idle_days: int = Field(
        7,
        ge=1,
        le=3650,
        description="Days that a DAG run must have been idle: more than your longest stage takes, or a person to "
        "clear a failed task.",
    )
    dry_run: bool = Field(False, description="Only list in the log what would be removed.")


class CleanResult(StageResult):
    """How much was removed, by kind, and what stayed because it was used again meanwhile."""

    removed: dict[str, int] = Field(description="Number of removals by kind.")
    megabytes: float = Field(ge=0, description="Size of the files removed.")
    kept: int = Field(ge=0, description="What was used again between finding and removing it.")

    @property
    def headline(self) -> str:
        """The size, for the summary."""
        return f"{sum(self.removed.values())} removed, {self.megabytes:.1f} MB"


STAGES = (
    Stage(
        "clean",
        CleanRequest,
        CleanResult,
        extra="client",
        resources=StageResources(cpus=1, memory="1g", cpu_request=0.1),
        calls_service=True,  # what it serves must stay
        changes_registry=True,  # says at a version that its weights went
    ),
)

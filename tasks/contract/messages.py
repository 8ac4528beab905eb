"""What requests and results are made of, and how a message from outside is checked.

What is said of a message that is wrong: field, value, what would do.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import PipelineError

M = TypeVar("M", bound=BaseModel)
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="An MLflow run ID.")]
# A field that an earlier stage gives; the example stands in for it where parameters are checked alone.
UpstreamRunId = Annotated[RunId, Field(examples=["0" * 32])]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
REGISTERED_MODEL = Field(
    "vision-classifier",
    description="Registered model that the result competes for. Give a task with other classes a name of its own.",
)
AirflowId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.~:+-]+$", description="As Airflow allows by default.")]


class TaskIdentity(BaseModel):
    """The Airflow task instance that asks; `key` is the same for every retry of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dag_id: AirflowId
    dag_run_id: AirflowId
    task_id: AirflowId
    map_index: int = -1
    user: str | None = Field(None, description="Who started the DAG run by hand; null when the schedule did.")

    @property
    def key(self) -> str:
        """`dag/dag run/task/map index`: finds a task's MLflow run and container again."""
        return f"{self.dag_id}/{self.dag_run_id}/{self.task_id}/{self.map_index}"

    @property
    def by(self) -> str:
        """Who is answerable for what the task does: the user, or the DAG run that the schedule started."""
        return self.user or f"{self.dag_id} {self.dag_run_id}"


class Message(BaseModel):
    """Anything that is sent: frozen, without unknown fields, without NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class StageRequest(Message):
    """What every stage is told."""

    section: ClassVar[str] = "Pipeline"

    task: TaskIdentity


class ReusableRequest(StageRequest):
    """What a stage is told that may take an earlier run's result."""

    # Which names it may hold follows from the table: tasks.contract.stages checks them and adds them to the form.
    force: tuple[str, ...] = Field(
        (),
        description="Stages that work even where an earlier run had the same inputs and code; `all` is every one.",
        json_schema_extra={"section": "Reuse"},
    )

    def forced(self, stage: str) -> bool:
        """Tell whether `stage` is asked to take nothing from earlier runs."""
        return stage in self.force or "all" in self.force


class StageResult(Message):
    """What every stage answers."""

    run_id: RunId
    experiment_id: str
    seconds: float = Field(ge=0, description="Wall-clock seconds of the stage.")
    reused_from: RunId | None = Field(None, description="The run that did the work, where this one took its result.")

    @property
    def headline(self) -> str:
        """The one thing that a reader wants to know of the result, for the summary.

        It also has to work on what `Stage.stored_result` reads: fields as JSON has them, those of an earlier release.
        """
        return ""

    @property
    def shown(self) -> dict[str, Any]:
        """The fields worth a line in a log, as JSON has them: those not marked `repr=False`."""
        hidden = {name for name, field in type(self).model_fields.items() if not field.repr}
        return self.model_dump(mode="json", exclude=hidden)


def parse(model: type[M], text: Any, error: type[PipelineError]) -> M:
    """Check a message, JSON or mapping, against its model.

    Raises:
        error: naming each field that is wrong, its value and what would do.
    """
    try:
        if isinstance(text, str | bytes):
            return model.model_validate_json(text)
        return model.model_validate(text)
    except ValidationError as invalid:
        raise error(f"{model.__name__}: " + "; ".join(_sentence(dict(e)) for e in invalid.errors())) from invalid


def _sentence(error: dict[str, Any]) -> str:
    """Turn one pydantic error into `field=value: what would do`."""
    name = ".".join(map(str, error["loc"]))
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"{str(error['input'])[:80]!r} is not JSON ({text}); send one JSON object"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{name}: missing; give it a value"
    return f"{name}={error['input']!r}: {text}" if name else text

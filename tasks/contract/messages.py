"""The base classes of requests and results, and the validation of messages.

An error about an invalid message names the field, the value and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import PipelineError

M = TypeVar("M", bound=BaseModel)
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="An MLflow run ID.")]
# A field that an earlier stage fills in; the example takes its place where only the parameters are checked.
UpstreamRunId = Annotated[RunId, Field(examples=["0" * 32])]
# Of an upstream run, as its stage's result had them; no parameter of the form, though a request may do without.
FROM_STAGE = "x-from-stage"
UpstreamTags = Annotated[
    Mapping[str, Annotated[str, Field(max_length=8000)]] | None,
    Field(description="Tags that the run must still have.", max_length=50, json_schema_extra={FROM_STAGE: True}),
]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
REGISTERED_MODEL = Field(
    "vision-classifier",
    description="Registered model whose champion the result is compared with. "
    "Use another name for a task with other classes.",
)
AirflowId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.~:+-]+$", description="As Airflow allows by default.")]


class TaskIdentity(BaseModel):
    """The Airflow task instance that sends a request; `key` is the same for all its retries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dag_id: AirflowId
    dag_run_id: AirflowId
    task_id: AirflowId
    map_index: int = -1
    user: str | None = Field(None, description="Who started the DAG run manually; null for a scheduled run.")

    @property
    def key(self) -> str:
        """`dag/dag run/task/map index`: identifies a task's MLflow run and container."""
        return f"{self.dag_id}/{self.dag_run_id}/{self.task_id}/{self.map_index}"

    @staticmethod
    def task_of(key: str) -> str:
        """Read the task's ID from a key."""
        return key.split("/")[2]

    @property
    def by(self) -> str:
        """Who is responsible for what the task does: the user, or the scheduled DAG run."""
        return self.user or f"{self.dag_id} {self.dag_run_id}"


class Message(BaseModel):
    """A request, a result or a part of one: frozen, without unknown fields, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class StageRequest(Message):
    """The fields of every request."""

    section: ClassVar[str] = "Pipeline"

    task: TaskIdentity

    @property
    def uses_ray(self) -> bool:
        """Whether the stage starts a Ray, or joins a cluster, for this request."""
        return False

    @classmethod
    def upstream_tags(cls) -> set[str]:
        """Return the fields with tags of upstream runs (`UpstreamTags`): no parameters, though a default is there."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {name for name, extra in extras.items() if isinstance(extra, dict) and FROM_STAGE in extra}


class ReusableRequest(StageRequest):
    """The request of a stage that may reuse the result of an earlier run."""

    # tasks.contract.stages checks the names against the table of stages and adds them to the form.
    force: tuple[str, ...] = Field(
        (),
        description="Stages to run even if an earlier run had the same inputs and code; `all` means every stage.",
        json_schema_extra={"section": "Reuse"},
    )

    # Parameters that the result does not depend on, or depends on only through what the inputs say of them.
    outside_of_reuse: ClassVar[frozenset[str]] = frozenset({"force"})

    def forced(self, stage: str) -> bool:
        """Tell whether `stage` must not reuse anything of earlier runs."""
        return stage in self.force or "all" in self.force


class StageResult(Message):
    """The fields of every result."""

    run_id: RunId
    experiment_id: str
    seconds: float = Field(ge=0, description="Wall-clock seconds of the stage.")
    reused_from: RunId | None = Field(
        None, description="The run whose result this one reused; null if it did the work itself."
    )

    tags: Mapping[str, str] | None = Field(
        None, description="Tags of the run that later stages rely on, as they were when it ended.", repr=False
    )

    @property
    def headline(self) -> str:
        """The main figure of the result, for the summary.

        It must also work on what `Stage.stored_result` reads: plain JSON values, in the fields of an earlier release.
        """
        return ""

    @property
    def shown(self) -> dict[str, Any]:
        """The fields to log, as JSON values: those not marked `repr=False`."""
        hidden = {name for name, field in type(self).model_fields.items() if not field.repr}
        return self.model_dump(mode="json", exclude=hidden)


def parse(model: type[M], text: Any, error: type[PipelineError]) -> M:
    """Validate a message, JSON or mapping, against its model.

    Raises:
        error: naming each wrong field, its value and the fix.
    """
    try:
        if isinstance(text, str | bytes):
            return model.model_validate_json(text)
        return model.model_validate(text)
    except ValidationError as invalid:
        raise error(f"{model.__name__}: " + "; ".join(_sentence(dict(e)) for e in invalid.errors())) from invalid


def _sentence(error: dict[str, Any]) -> str:
    """Turn one pydantic error into `field=value: the fix`."""
    name = ".".join(map(str, error["loc"]))
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"{str(error['input'])[:80]!r} is not JSON ({text}); send one JSON object"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{name}: missing; give it a value"
    return f"{name}={error['input']!r}: {text}" if name else text

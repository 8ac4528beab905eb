"""What a stage may use of the machine: a default per stage, changed by the environment or by the DAG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.contract import STAGES
from tasks.errors import SettingsError
from tasks.settings import Settings

Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmg]$")]  # as Docker writes it: 512m, 8g


class StageResources(BaseModel):
    """Limits of one stage; the local runtime, which has no walls, does not apply them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: Annotated[float | None, Field(gt=0, description="Cores, a real limit; null: all the engine has.")] = None
    memory: Annotated[Size, Field(description="Memory, swap included; more than this ends the stage.")] = "4g"
    shm_size: Annotated[Size, Field(description="Shared memory; Ray keeps the images there that its trials share.")] = (
        "64m"
    )
    gpus: Annotated[int, Field(ge=-1, description="Number of GPUs; -1 is all.")] = 0


DEFAULTS: Mapping[str, StageResources] = {
    "prepare": StageResources(memory="8g"),
    "tune": StageResources(memory="16g", shm_size="4g"),
    "train": StageResources(memory="16g", shm_size="1g"),
    "evaluate": StageResources(memory="8g", shm_size="1g"),
    "register": StageResources(cpus=1, memory="1g"),
    "rollback": StageResources(cpus=1, memory="1g"),
    "deploy": StageResources(cpus=1, memory="1g"),
}


def resources_for(stage: str, settings: Settings, in_dag: Mapping[str, Any] | None = None) -> StageResources:
    """Merge a stage's default, `PIPELINE_RESOURCES` and the DAG's own wish; the later one wins, field by field.

    Raises:
        SettingsError: naming the stage and the field that cannot be used.
    """
    unknown = sorted(set(settings.pipeline_resources) - set(STAGES))
    if unknown:
        raise SettingsError(f"PIPELINE_RESOURCES: stage {unknown[0]!r} is unknown; choose one of {', '.join(STAGES)}")
    default = DEFAULTS.get(stage, StageResources())
    wanted = {**default.model_dump(), **settings.pipeline_resources.get(stage, {}), **(in_dag or {})}
    try:
        return StageResources.model_validate(wanted)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"resources of {stage}: {field}={first['input']!r}: {first['msg']}; "
            'an example is {"cpus": 2, "memory": "8g", "shm_size": "1g", "gpus": 1}'
        ) from invalid

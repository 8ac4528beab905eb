"""What a stage may use of the machine: a default per stage, changed by the environment or by the DAG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.contract.stages import STAGES
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
    gpus: Annotated[int, Field(ge=-1, description="Number of GPUs; -1 is all, on Docker.")] = 0

    # What only a cluster has.
    cpu_request: Annotated[
        float | None, Field(gt=0, description="Cores that its node keeps free for it; null: as many as cpus, or 0.1.")
    ] = None
    gpu_kind: Annotated[str, Field(description="Kubernetes' name of such a GPU.")] = "nvidia.com/gpu"
    ephemeral_storage: Annotated[
        Size | None, Field(description="Disk of the node that a pod may fill; null: the node's own limits.")
    ] = None
    node_selector: Annotated[dict[str, str], Field(description="Labels that the pod's node must have.")] = {}
    tolerations: Annotated[
        tuple[dict[str, str | int], ...], Field(description="Taints of nodes that the pod may go to, as in its spec.")
    ] = ()


DEFAULTS: Mapping[str, StageResources] = {
    "prepare": StageResources(memory="8g"),
    "tune": StageResources(memory="16g", shm_size="4g"),
    "train": StageResources(memory="16g", shm_size="1g"),
    "evaluate": StageResources(memory="8g", shm_size="1g"),
    "register": StageResources(cpus=1, memory="1g", cpu_request=0.1),
    "rollback": StageResources(cpus=1, memory="1g", cpu_request=0.1),
    "deploy": StageResources(cpus=1, memory="1g", cpu_request=0.1),
}


def resources_for(
    stage: str,
    settings: Settings,
    in_dag: Mapping[str, Any] | None = None,
    in_run: Mapping[str, Mapping[str, Any]] | None = None,
) -> StageResources:
    """Merge a stage's limits; the later ones win, field by field.

    Args:
        stage: whose.
        settings: hold `PIPELINE_RESOURCES`, which goes over the stage's default.
        in_dag: the DAG's own wish.
        in_run: the DAG run's Param `resources`: per stage, as in `PIPELINE_RESOURCES`.

    Raises:
        SettingsError: naming the stage and the field that cannot be used.
    """
    for source, given in (("PIPELINE_RESOURCES", settings.pipeline_resources), ("resources", in_run or {})):
        if unknown := sorted(set(given) - set(STAGES)):
            raise SettingsError(f"{source}: stage {unknown[0]!r} is unknown; choose one of {', '.join(STAGES)}")
    default = DEFAULTS.get(stage, StageResources())
    asked = (settings.pipeline_resources.get(stage, {}), in_dag or {}, (in_run or {}).get(stage, {}))
    wanted = default.model_dump() | {name: value for one in asked for name, value in one.items()}
    try:
        return StageResources.model_validate(wanted)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"resources of {stage}: {field}={first['input']!r}: {first['msg']}; "
            'an example is {"cpus": 2, "memory": "8g", "shm_size": "1g", "gpus": 1}'
        ) from invalid

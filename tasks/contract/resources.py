"""What a stage may use of the machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmg]$")]  # as Docker writes it: 512m, 8g
SHARE = 0.1  # CPU cores that a node keeps for a stage without a limit: nodes with none to spare are left out


class StageResources(BaseModel):
    """Limits of one stage; the local runtime does not apply them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: Annotated[float | None, Field(gt=0, description="Maximum CPU cores; null: all that the engine has.")] = None
    memory: Annotated[Size, Field(description="Maximum memory, swap included; a stage that exceeds it is killed.")] = (
        "4g"
    )
    shm_size: Annotated[Size, Field(description="Shared memory; Ray keeps there the images that its trials share.")] = (
        "64m"
    )
    gpus: Annotated[int, Field(ge=-1, description="Number of GPUs; -1 is all, on Docker.")] = 0

    # Kubernetes only.
    cpu_request: Annotated[
        float | None, Field(gt=0, description="CPU cores reserved on its node; null: as many as cpus, or 0.1.")
    ] = None
    gpu_kind: Annotated[str, Field(description="Kubernetes' resource name of the GPUs.")] = "nvidia.com/gpu"
    ephemeral_storage: Annotated[
        Size | None, Field(description="Disk of the node that a pod may fill; null: the node's own limits.")
    ] = None
    node_selector: Annotated[dict[str, str], Field(description="Labels that the pod's node must have.")] = {}
    tolerations: Annotated[
        tuple[dict[str, str | int], ...], Field(description="Taints that the pod tolerates, as in a pod spec.")
    ] = ()

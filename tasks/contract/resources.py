"""What a stage may use of the machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmg]$")]  # as Docker writes it: 512m, 8g


class StageResources(BaseModel):
    """Limits of one stage; the local runtime does not apply them."""

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

"""compress: its request, its result, its entry in the table of stages, and the table of methods.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from tasks.contract.messages import REGISTERED_MODEL, ModelName, ReusableRequest, RunId, StageResult, UpstreamTags
from tasks.contract.networks import Architecture
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage
from tasks.contract.table_key import KeyOf
from tasks.contract.training import MODEL_TAGS


@dataclass(frozen=True)
class Method:
    """A way to make a model smaller; the code of each is in the table of `tasks.stages.compress`.

    Attributes:
        about: what it does, for the form.
        trains: whether its result comes from a training; otherwise from training images that calibrate it.
        network: whether its result is a whole network of the table or of timm, from which others can be trained and
            compressed; otherwise these start from the model before.
    """

    about: str
    trains: bool = False
    network: bool = False


METHODS: Mapping[str, Method] = {
    "int8": Method("weights and activations of eight bits, calibrated on training images; no training"),
    "distill": Method("a smaller network, `student`, learns from the answers of the model", trains=True, network=True),
    "prune": Method("the channels that matter least are removed, and what is left is trained on", trains=True),
}


class CompressRequest(ReusableRequest):
    """Make a challenger out of a finished model: the same answers, as far as possible, at less cost."""

    section: ClassVar[str] = "Compression"

    trained_by: RunId | None = Field(
        None, description="ID of a train run; its model is compressed. Default: the run that trained the champion."
    )
    train_tags: UpstreamTags = None
    method: Annotated[str, KeyOf(METHODS)] = Field(
        "int8", description=f"How: {'; '.join(f'{name} ({method.about})' for name, method in METHODS.items())}."
    )
    calibration_images: int = Field(
        200,
        ge=10,
        le=10_000,
        description="int8: training images by which the ranges of activations are found; prune: by which channels are "
        "judged. All, if there are fewer.",
    )
    calibration_seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the choice of these images, and of a training."
    )
    pruning_ratio: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="prune: share of the network's multiplications that is removed, at least; 0.5 is half of them.",
    )
    student: Architecture = Field(
        "mobilenet_v3_small",
        description="distill: the network that learns. It starts from pretrained weights where they are at hand.",
    )
    compression_epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="distill, prune: epochs. Default: those of a training of the student, or of the model's training.",
    )
    temperature: float = Field(
        4.0, ge=1, le=20, description="distill: the higher, the more the student learns from the less likely classes."
    )
    teacher_share: float = Field(
        0.9, gt=0, le=1, description="distill: share of the loss that asks for the model's answers, not for the labels."
    )
    registered_model: ModelName = REGISTERED_MODEL


class CompressResult(StageResult):
    """`run_id` leads to the compressed model; later stages treat the run as that of a training."""

    method: str
    train_run_id: RunId = Field(description="The run that trained the model.")
    parent_version: int | None = Field(ge=1, description="Its version in the registry; null if it has none.")
    validation_accuracy: float | None = Field(
        ge=0, le=1, description="Null where the model was fitted to the validation images, too (finetune=head)."
    )
    parent_validation_accuracy: float | None = Field(ge=0, le=1, description="The same before the compression.")
    same_answers: float = Field(ge=0, le=1, description="Share of the validation images answered as before.")
    megabytes: float = Field(gt=0, description="Size of the form that is served.")
    parent_megabytes: float = Field(gt=0)
    model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the compressed form.")

    @property
    def headline(self) -> str:
        """The method, size and validation accuracy, with those before."""
        size = f"{self.method}: {self.megabytes:.1f} MB (before {self.parent_megabytes:.1f})"
        if self.validation_accuracy is None or self.parent_validation_accuracy is None:
            return f"{size}, {self.same_answers:.1%} of the validation images answered as before"
        before = f"before {self.parent_validation_accuracy:.4f}"
        return f"{size}, validation accuracy {self.validation_accuracy:.4f} ({before})"


STAGES = (
    Stage(
        "compress",
        CompressRequest,
        CompressResult,
        extra="vision",
        resources=StageResources(memory="16g", shm_size="1g"),
        inputs="tasks.records.inputs.compression:CompressInputs",
        depends_on="model, data, method, weights and code",
        hands_over=MODEL_TAGS,
        choice="method",
    ),
)

"""prepare: its request, its result, and its entry in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from tasks.contract.datasets import CHOICES, DatasetName, require_source
from tasks.contract.messages import REGISTERED_MODEL, ModelName, ReusableRequest, StageResult
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage

Fraction = Annotated[float, Field(gt=0, lt=1)]


class PrepareRequest(ReusableRequest):
    """Read a data set and turn it into training, validation and test tensors."""

    section: ClassVar[str] = "Data"

    dataset: DatasetName = Field("digits", description=f"Data set: {CHOICES}.")
    source: str | None = Field(
        None,
        description="For `image_folder`: a folder, .tar, .tar.gz or .zip, local or s3://, "
        "with train/CLASS/* and, optionally, test/CLASS/* and metadata.csv.",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=512,
        description="Side of the square images, in pixels. Default: the data set's own size, or 32 for `image_folder`.",
    )
    validation_fraction: Fraction = Field(0.15, description="Share of the training images kept for validation.")
    test_fraction: Fraction = Field(
        0.2, description="Share of the images kept for testing if the source has no test set."
    )
    licence: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Licence of the images, for the model card. Default: what the authors of the data set state.",
    )
    data_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the splits.")
    registered_model: ModelName = REGISTERED_MODEL

    @model_validator(mode="after")
    def _source_fits_dataset(self) -> Self:
        require_source(self.dataset, self.source)
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} and test_fraction={self.test_fraction} "
                "leave no training images; make their sum less than 1"
            )
        return self


class PrepareResult(StageResult):
    """`run_id` leads to the gold tensors, manifest, list of removed images, histogram and sample grid."""

    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="The same for the same source and settings.")
    reused: bool = Field(description="Whether the gold of an earlier run was reused.")
    classes: int = Field(ge=2)
    train_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    removed_images: int = Field(ge=0)

    @property
    def headline(self) -> str:
        """Number of images and classes, and whether the gold was reused."""
        images = self.train_images + self.validation_images + self.test_images
        return f"{images:,} images, {self.classes} classes" + (", gold reused" if self.reused else "")


STAGES = (Stage("prepare", PrepareRequest, PrepareResult, extra="vision", resources=StageResources(memory="8g")),)

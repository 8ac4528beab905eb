"""predict: its request, its result, and its entry in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.contract.data import FILE_COLUMN, NAME_ENCODING, ColumnName, EncodingName
from tasks.contract.messages import REGISTERED_MODEL, ModelName, StageRequest, StageResult
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage
from tasks.contract.workers import WORKER_CPUS, WORKERS

S3 = "s3://"
Format = Literal["parquet", "csv"]


class PredictRequest(StageRequest):
    """Classify all images of a folder, an archive or a prefix of an S3 store with one version of a model."""

    section: ClassVar[str] = "Prediction"

    # Airflow gives null for a field of the form that is left empty.
    images: Annotated[Annotated[str, Field(max_length=2000)], BeforeValidator(lambda text: text or "")] = Field(
        "",
        description="What to classify: a folder, .zip, .tar (plain, gz, bz2, xz, zst) or .parquet, local or s3://; "
        "s3://BUCKET/PREFIX/ is a folder.",
        json_schema_extra={"minLength": 1},
    )
    out: Annotated[Annotated[str, Field(max_length=2000)] | None, BeforeValidator(lambda text: text or None)] = Field(
        None,
        description="Where to write the predictions: s3://BUCKET/PREFIX/, or a local folder with the local runtime. "
        "Default: the artifacts of the MLflow run.",
    )
    model_version: int | None = Field(
        None, ge=1, description="Version of the registered model that answers. Default: the one that `alias` names."
    )
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$")] = Field(
        "champion", description="Alias of the version that answers, if `model_version` is not given."
    )
    output_format: Format = Field("parquet", description="`parquet`, or `csv` with a column for each class.")
    part_images: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Images per part. What was predicted since the last complete part is predicted again after a kill.",
    )
    forward_images: int = Field(32, ge=1, le=1024, description="Images per forward pass.")
    max_failed: float = Field(
        0.25,
        ge=0,
        le=1,
        description="The run stops if a larger share of the files cannot be decoded, counted after each part.",
    )
    workers: int = WORKERS
    worker_cpus: int | None = WORKER_CPUS
    file_column: ColumnName | None = FILE_COLUMN
    name_encoding: EncodingName | None = NAME_ENCODING
    registered_model: ModelName = REGISTERED_MODEL

    @property
    def uses_ray(self) -> bool:
        """Only for several workers."""
        return self.workers > 1

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        if not self.images:
            raise ValueError("images='': say what to classify: a folder or archive, local or s3:// (make: SOURCE=)")
        for name in ("images", "out"):
            text = getattr(self, name)
            if text and re.match(r"[A-Za-z][\w+.-]*:/", text) and not text.startswith(S3):
                raise ValueError(f"{name}={text!r} is neither a local path nor an s3:// address; give one of these")
        if self.out and self.out.startswith(S3) and not self.out.removeprefix(S3).partition("/")[2].strip("/"):
            raise ValueError(f"out={self.out!r} is a whole bucket; add a prefix of its own: s3://BUCKET/PREFIX/")
        return self


class PredictResult(StageResult):
    """`run_id` leads to the counts, and to the predictions where `out` was not given."""

    registered_model: ModelName
    version: int = Field(ge=1, description="The version that answered.")
    out: str = Field(description="Where the predictions are.")
    images: int = Field(ge=1, description="Files tried, those of earlier tries included.")
    failed: int = Field(ge=0, description="Of these, files that could not be decoded.")
    parts: int = Field(ge=1)
    images_per_second: float = Field(ge=0, description="In this try; 0 if an earlier one had predicted everything.")

    @property
    def headline(self) -> str:
        """How many images, by which version, at what rate."""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.images:,} images by version {self.version}{failed}, {self.images_per_second:,.0f} images/s"


STAGES = (
    Stage(
        "predict",
        PredictRequest,
        PredictResult,
        extra="inference",
        resources=StageResources(memory="4g", shm_size="1g"),  # images on their way to workers
        retried_out_of_memory=False,  # images that anyone may have made; what is complete stays
    ),
)

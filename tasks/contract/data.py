"""prepare: its request, its result, and its entry in the table of stages.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tasks.contract.datasets import CHOICES, DATASETS, DatasetName, require_source
from tasks.contract.messages import REGISTERED_MODEL, ModelName, ReusableRequest, StageResult
from tasks.contract.resources import StageResources
from tasks.contract.stage import Stage
from tasks.contract.workers import WORKER_CPUS, WORKERS

Fraction = Annotated[float, Field(gt=0, lt=1)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
LayoutName = Literal["auto", "splits", "classes", "sheet", "parquet", "names"]
LABEL_GROUP = "label"
RUN_ARTIFACT = re.compile(r"runs:/(?P<run_id>[0-9a-f]{32})/(?P<path>.+)")
_ENCODINGS = "try gb18030, cp1252, cp932, cp949 or cp437"
FILE_COLUMN = Field(
    None, description="Column of the label sheet with the file names, or of Parquet files with the images."
)
NAME_ENCODING = Field(
    None, description="Encoding of the file names in an archive that does not say it, such as gb18030."
)
OF_FILES = ("layout", "file_column", "label_column", "label_pattern", "name_encoding")


def _has_label_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression ({error}); correct it") from error
    if LABEL_GROUP not in groups:
        raise ValueError(
            r"no group `label`; write the part that is the class as (?P<label>...), as in (?P<label>.+)_\d+"
        )
    return pattern


def _is_encoding(name: str) -> str:
    try:
        fits = b"a/1.png".decode(name) == "a/1.png"  # not so in UTF-16, which no archive has
    except (LookupError, ValueError) as error:
        raise ValueError(f"not an encoding that Python knows; {_ENCODINGS}") from error
    if not fits:
        raise ValueError(f"not an encoding of file names; {_ENCODINGS}")
    return name


EncodingName = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_is_encoding)]


def _is_address_of_table(text: str) -> str:
    if text.startswith("runs:"):
        if not RUN_ARTIFACT.fullmatch(text):
            raise ValueError("not a file of an MLflow run; write runs:/RUN_ID/PATH, with 32 characters as RUN_ID")
    elif re.match(r"[A-Za-z][\w+.-]+:/", text) and not text.startswith("s3://"):
        raise ValueError("cannot be opened; give a file, s3://BUCKET/KEY or runs:/RUN_ID/PATH")
    return text


class PrepareRequest(ReusableRequest):
    """Read a data set and turn it into training, validation and test tensors."""

    section: ClassVar[str] = "Data"

    dataset: DatasetName = Field("digits", description=f"Data set: {CHOICES}.")
    source: str | None = Field(
        None,
        description="For `image_folder`: a folder, .zip, .tar (plain, gz, bz2, xz, zst) or .parquet, local or s3://, "
        "with train/CLASS/* (and validation/, test/), CLASS/*, or a table of labels.",
    )
    layout: LayoutName = Field(
        "auto",
        description="How the source is laid out, if it could be understood in two ways: `splits` (train/CLASS/*), "
        "`classes` (CLASS/*), `sheet` (a table of labels), `parquet`, or `names` (labels in file names).",
    )
    file_column: ColumnName | None = FILE_COLUMN
    label_column: ColumnName | None = Field(
        None, description="Column of the label sheet or of Parquet files with the labels."
    )
    label_pattern: Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_has_label_group)] | None = Field(
        None,
        description="Regular expression that finds the class in a file name, by its group `label`: "
        r"(?P<label>.+)_\d+ for cat_001.jpg.",
    )
    name_encoding: EncodingName | None = NAME_ENCODING
    corrections: Annotated[
        Annotated[str, Field(max_length=2000), AfterValidator(_is_address_of_table)] | None,
        BeforeValidator(lambda text: text or None),
    ] = Field(
        None,
        description="Corrected labels: a CSV file with the columns `file` and `label`, such as an edited "
        "suspected_labels.csv; an empty label leaves the image out. A file, s3:// or "
        "runs:/RUN_ID/suspected_labels.csv.",
    )
    max_left_out: float = Field(
        0.25,
        ge=0,
        le=1,
        description="The run stops if a larger share of the files would be left out, for whatever reason.",
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
    workers: int = WORKERS
    worker_cpus: int | None = WORKER_CPUS
    registered_model: ModelName = REGISTERED_MODEL

    @property
    def uses_ray(self) -> bool:
        """Only for several workers, and only where there is a cluster: alone, prepare uses all cores as it is."""
        return self.workers > 1

    @model_validator(mode="after")
    def _source_fits_dataset(self) -> Self:
        require_source(self.dataset, self.source)
        given = [name for name in OF_FILES if getattr(self, name) != type(self).model_fields[name].default]
        if given and not DATASETS[self.dataset].needs_source:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])!r} goes with a source, not with dataset={self.dataset!r}"
            )
        self._check_layout()
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} and test_fraction={self.test_fraction} "
                "leave no training images; make their sum less than 1"
            )
        return self

    def _check_layout(self) -> None:
        if self.layout == "names" and not self.label_pattern:
            raise ValueError("layout='names' needs label_pattern: a regular expression with a group `label`")
        if self.label_pattern and self.layout not in ("auto", "names"):
            raise ValueError(f"label_pattern goes with layout='names', not {self.layout!r}; remove one of the two")
        columns = self.file_column or self.label_column
        if columns and (self.label_pattern or self.layout not in ("auto", "sheet", "parquet")):
            other = "label_pattern" if self.label_pattern else f"layout={self.layout!r}"
            raise ValueError(
                f"file_column and label_column go with a sheet or Parquet, not {other}; remove one of the two"
            )


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
        """Number of images and classes, how many files were left out, and whether the gold was reused."""
        images = self.train_images + self.validation_images + self.test_images
        reused = ", gold reused" if self.reused else ""
        return f"{images:,} images, {self.classes} classes, {self.removed_images:,} left out{reused}"


STAGES = (
    Stage(
        "prepare",
        PrepareRequest,
        PrepareResult,
        extra="tune",
        resources=StageResources(memory="8g", shm_size="1g"),  # images on their way to workers, and their pixels
        # Not which run has the gold: trainings on the same bytes are reused, whichever run these are in.
        hands_over=(
            "pipeline.gold_sha256",
            "pipeline.fingerprint",
            "pipeline.dataset",
            "pipeline.data_licence",
        ),
        retried_out_of_memory=False,
    ),
)

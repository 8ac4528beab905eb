"""What was measured of a candidate and of the champion; a value that is None is missing, and counts against it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.compression import METHODS


class _Evidence(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scores(_Evidence):
    """One model on the test images."""

    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)
    calibration_error: float = Field(ge=0, le=1, description="Expected calibration error, 15 bins of equal width.")
    top5_accuracy: float | None = Field(
        None, ge=0, le=1, description="The class is among the five most probable; None with 10 classes or fewer."
    )


class Cost(_Evidence):
    """Latency, memory and size of one model, on the machine of the evaluation."""

    p50_ms: float = Field(ge=0, description="Median time of one answer.")
    p95_ms: float = Field(ge=0)
    memory_mb: float = Field(ge=0, description="Peak memory of a process that does nothing but answer.")
    size_mb: float = Field(ge=0, description="The model's files.")


class Slice(_Evidence):
    """A part of the test images: those of a class (then `accuracy` is its recall), or with a value in a column."""

    column: str = Field(description="`class`, or a column of the data set's metadata.")
    value: str
    images: int = Field(ge=0)
    accuracy: float | None = Field(ge=0, le=1, description="None where there are no images.")


class Comparison(_Evidence):
    """Candidate and champion on the same test images, image by image."""

    images: int = Field(ge=1)
    gained: int = Field(ge=0, description="Images that only the candidate classifies correctly.")
    lost: int = Field(ge=0, description="Images that only the champion classifies correctly.")
    p_value: float = Field(ge=0, le=1, description="Exact McNemar test, one-sided: the candidate is no better.")
    low: float = Field(ge=-1, le=1, description="Paired bootstrap interval of the accuracy gap, at 1 - 2 * level.")
    high: float = Field(ge=-1, le=1)
    level: float = Field(gt=0, lt=0.5, description="Chance of error allowed for this candidate.")
    look: int = Field(ge=1, description="Number of this comparison among those with the same champion.")

    @property
    def gap(self) -> float:
        """Candidate's accuracy minus the champion's."""
        return (self.gained - self.lost) / self.images


class Loading(_Evidence):
    """Whether the service's own loader loads the model, and the model follows its signature."""

    works: bool
    note: str = Field(description="What was tested, or what went wrong.")


class Champion(_Evidence):
    """The current champion; `same` when it has the candidate's weights."""

    version: int = Field(ge=1)
    same: bool = False
    scores: Scores | None = None
    cost: Cost | None = None
    uncompressed_cost: Cost | None = Field(
        None,
        description="What it would cost had it not been compressed, by the ratios that were measured then; None for a "
        "champion that was not, or whose ratios are not known.",
    )
    comparison: Comparison | None = None


class Compression(_Evidence):
    """How the candidate was compressed, and the model that it was made from, measured beside it."""

    method: str
    images: int = Field(ge=0, description="Training images that it was calibrated or trained on.")
    version: int | None = Field(ge=1, description="Version of the model before; None if it was not registered.")
    scores: Scores = Field(description="Of the model before.")
    cost: Cost | None = Field(description="Of the model before.")
    comparison: Comparison | None = Field(description="Here `lost` are images that only the model before gets right.")

    @property
    def name(self) -> str:
        """The model before, in words."""
        return f"version {self.version}" if self.version else "the model"

    @property
    def origin(self) -> str:
        """What it was made by, from what, and on how many images, in words."""
        before = f"version {self.version}" if self.version else "a model that was not registered"
        trained = self.method in METHODS and METHODS[self.method].trains
        return f"from {before}, {'trained' if trained else 'calibrated'} on {self.images:,} training images"


class Evidence(_Evidence):
    """Everything that the gate considers."""

    loading: Loading | None = None
    scores: Scores | None = None
    cost: Cost | None = None
    slices: tuple[Slice, ...] = ()
    champion: Champion | None = None
    compression: Compression | None = Field(None, description="None for a model as it was trained.")
    rolled_back: str | None = Field(None, description="Who rolled back these same weights, and why.")

    @property
    def made_from_champion(self) -> bool:
        """Whether the candidate is the champion, compressed."""
        return (
            self.compression is not None
            and self.champion is not None
            and (self.compression.version == self.champion.version)
        )

    @model_validator(mode="after")
    def _slices_once(self) -> Self:
        names = [(part.column, part.value) for part in self.slices]
        if len(set(names)) != len(names):
            raise ValueError("a slice is given twice")
        return self

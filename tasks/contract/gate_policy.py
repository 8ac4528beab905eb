"""The limits that a candidate has to meet. Every field is a Param of the DAG's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CLASS = "class"
"""Column of the slices by true class; no metadata column may have this name."""

STRICTER: Mapping[str, tuple[str, ...]] = {
    "min_accuracy": ("higher",),
    "min_macro_f1": ("higher",),
    "max_calibration_error": ("lower",),
    "proof": ("not_worse", "better"),
    "false_promotion_rate": ("lower",),
    "rate_holds_for": ("gate", "champion"),
    "non_inferiority_margin": ("lower",),
    "min_gain": ("higher",),
    "min_class_recall": ("higher",),
    "min_slice_accuracy": ("higher",),
    "slice_columns": ("more",),
    "max_latency_ms": ("lower",),
    "max_slowdown": ("lower",),
    "max_model_mb": ("lower",),
    "max_growth": ("lower",),
    "max_memory_mb": ("lower",),
    "max_memory_growth": ("lower",),
    "compression_gain": ("fixed",),
    "min_compression_gain": ("higher",),
}
"""Which value of a limit asks more of a candidate: a number's direction, `more` names, or the choices, strictest last.
`fixed`: none of its values does."""


class GatePolicy(BaseModel):
    """Limits of the gate; fractions from 0 to 1 unless stated otherwise. An empty field sets no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_accuracy: float = Field(0.3, ge=0, le=1, description="Minimum test accuracy for a promotion.")
    min_macro_f1: float = Field(0.3, ge=0, le=1, description="Minimum macro F1 for a promotion.")
    max_calibration_error: float = Field(
        0.25, ge=0, le=1, description="Maximum expected calibration error: the gap between confidence and accuracy."
    )
    proof: Literal["better", "not_worse"] = Field(
        "better",
        description="What must be shown against the champion. `better`: a gain. `not_worse`: no loss beyond the margin "
        "(keeps the model up to date with changing data).",
    )
    false_promotion_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Largest accepted probability of promoting a candidate for which `proof` does not hold.",
    )
    rate_holds_for: Literal["champion", "gate"] = Field(
        "champion",
        description="What the false promotion rate covers. `champion`: all candidates compared with one champion "
        "together, so each further one needs stronger evidence. `gate`: each candidate separately.",
    )
    non_inferiority_margin: float = Field(
        0.01, ge=0, lt=1, description="Largest loss of accuracy against the champion that still counts as not worse."
    )
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="Smallest gain in test accuracy over the champion, with proof `better`."
    )
    min_class_recall: float = Field(0.0, ge=0, le=1, description="Minimum recall of every class.")
    min_slice_accuracy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Minimum accuracy on every slice: test images with one value in a metadata column (metadata.csv).",
    )
    slice_columns: str | None = Field(
        None,
        pattern=r"^[^,]*(,[^,]+)*$",
        description="Metadata columns that the data set must have, separated by commas. Default: all that it has.",
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="Maximum latency of one answer, 95th percentile, in ms."
    )
    max_slowdown: float = Field(
        2.0, ge=1, description="Maximum latency (median and 95th percentile), as a multiple of the champion's."
    )
    max_model_mb: float | None = Field(None, gt=0, description="Maximum size of the model's files, in MB.")
    max_growth: float = Field(4.0, ge=1, description="Maximum size, as a multiple of the champion's.")
    max_memory_mb: float | None = Field(None, gt=0, description="Maximum peak memory while answering, in MB.")
    max_memory_growth: float = Field(2.0, ge=1, description="Maximum peak memory, as a multiple of the champion's.")
    compression_gain: Literal["latency", "size"] = Field(
        "latency",
        description="What a compressed model must gain over the model that it was made from: `latency` (median of one "
        "answer) or `size`. It must also be no worse, within non_inferiority_margin.",
    )
    min_compression_gain: float = Field(
        1.2, ge=1, description="Smallest factor by which a compressed model must be faster or smaller."
    )

    def level(self, number: int) -> float:
        """Error probability allowed for comparison `number` (from 1) with the same champion.

        With `rate_holds_for="champion"` the rate is spent as rate / (number * (number + 1)): these sum to the rate,
        however many candidates follow (alpha spending; the union bound needs no independence between them).
        """
        if number < 1:
            raise ValueError(f"number={number}: the first comparison is number 1")
        if self.rate_holds_for == "gate":
            return self.false_promotion_rate
        return self.false_promotion_rate / (number * (number + 1))

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Names in `slice_columns`."""
        return _names(self.slice_columns or "")


def strictest(name: str, asked: Any, floor: Any) -> Any:
    """Return the value of the limit `name` that asks for all that `asked` and `floor` do; None asks for nothing."""
    if asked is None or floor is None:
        return floor if asked is None else asked
    match STRICTER[name]:
        case ("higher",):
            return max(asked, floor)
        case ("lower",):
            return min(asked, floor)
        case ("more",):
            names = _names(asked)
            missing = [column for column in _names(floor) if column not in names]
            return ",".join([*names, *missing]) if missing else asked
        case ("fixed",):
            return floor
        case choices:
            return max(asked, floor, key=choices.index)


def _names(columns: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(",") if name.strip())

"""The search space: an interval or a list of values for each hyperparameter.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from tasks.contract.messages import Message
from tasks.contract.networks import Architecture
from tasks.contract.recipe import AutoAugment, BatchSize, ClassBalance, Hyperparameters, Schedule


class Interval(Message):
    """Every number from `low` to `high`; with `log`, on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.low < self.high:
            raise ValueError(
                f"low={self.low:g} must be less than high={self.high:g}; for one value give [{self.low:g}]"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g} has no logarithm; give a low above 0, or log=false")
        return self


def _distinct(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("an empty list leaves nothing to choose; give values, or null to leave it out of the search")
    doubled = [value for value in values if values.count(value) > 1]
    if doubled:
        raise ValueError(f"{doubled[0]!r} is in the list twice; give each value once")
    return values


Numbers = Interval | Annotated[list[float], AfterValidator(_distinct)] | None
Dimension = Interval | list[Any]


class SearchSpace(Message):
    """An interval or list for each hyperparameter; null leaves one out of the search, at its default."""

    learning_rate: Numbers = Interval(low=1e-4, high=1e-1, log=True)
    weight_decay: Numbers = Interval(low=1e-5, high=1e-2, log=True)
    layer_decay: Numbers = None
    momentum: Numbers = Interval(low=0.8, high=0.98)
    batch_size: Annotated[list[BatchSize], AfterValidator(_distinct)] | None = Field([32, 64, 128])
    label_smoothing: Numbers = Interval(low=0.0, high=0.2)
    augmentation: Numbers = Interval(low=0.0, high=1.0)
    auto_augment: Annotated[list[AutoAugment], AfterValidator(_distinct)] | None = None
    mixup: Numbers = None
    cutmix: Numbers = None
    class_balance: Annotated[list[ClassBalance], AfterValidator(_distinct)] | None = None
    schedule: Annotated[list[Schedule], AfterValidator(_distinct)] | None = Field(
        list[Schedule](["one_cycle", "cosine"])
    )
    model: Annotated[list[Architecture], AfterValidator(_distinct)] | None = Field(
        None, description="Networks to choose from; null: only the one in the parameter `model`."
    )

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        for name, dimension in self.dimensions().items():
            ends = [dimension.low, dimension.high] if isinstance(dimension, Interval) else dimension
            for value in ends if name in Hyperparameters.model_fields else []:
                try:
                    Hyperparameters.model_validate({name: value})
                except ValidationError as invalid:
                    raise ValueError(
                        f"{name}: {value!r} is outside its limits ({invalid.errors()[0]['msg']})"
                    ) from None
        return self

    def dimensions(self, fixed: tuple[str, ...] = ()) -> dict[str, Dimension]:
        """Return the hyperparameters to choose, by name, without those in `fixed`."""
        found = {name: getattr(self, name) for name in type(self).model_fields if name not in fixed}
        return {name: dimension for name, dimension in found.items() if dimension is not None}


def require_searchable(dimensions: Mapping[str, Dimension], searcher: str, trials: int) -> None:
    """Check that there is something to search and that `searcher` can search it.

    Raises:
        ValueError: nothing has more than one value; or a grid has an interval, or more combinations than `trials`.
    """
    if not any(isinstance(dimension, Interval) or len(dimension) > 1 for dimension in dimensions.values()):
        raise ValueError(
            "nothing to search: every hyperparameter is set explicitly or has only one value in search_space; "
            "give one an interval or a longer list, or set fewer explicitly"
        )
    if searcher != "grid":
        return
    intervals = [name for name, dimension in dimensions.items() if isinstance(dimension, Interval)]
    if intervals:
        raise ValueError(
            f"searcher='grid' tries every value, and {', '.join(intervals)} can take infinitely many; "
            'give lists, like {"learning_rate": [0.01, 0.1]}, and null for those not to search'
        )
    combinations = math.prod(len(dimension) for dimension in dimensions.values() if isinstance(dimension, list))
    if combinations > trials:
        raise ValueError(f"the grid has {combinations} combinations, trials={trials}; raise trials or shorten a list")

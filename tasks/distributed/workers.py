"""What a training needs of whoever starts its workers: the stage, or a trial of a search."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from tasks.contract.recipe import Recipe
from tasks.settings import Settings
from tasks.vision.data.gold import Gold

PATIENCE_SECONDS = 1800  # Ray's own default


@dataclass(frozen=True)
class Work:
    """One training, as workers begin it.

    Attributes:
        recipe: what to do.
        gold: the images.
        trained: weights to start from, by name; None: random ones.
        micro_batches: see `Training`.
        state: what to go on from, packed; None: from the start.
        network_bytes: that the weights and buffers of the network take.
    """

    recipe: Recipe
    gold: Gold
    trained: Mapping[str, Tensor] | None
    micro_batches: int
    state: bytes | None
    network_bytes: int


class Running(Protocol):
    """Workers that were started."""

    @property
    def relay(self) -> Any:
        """Actor `Relay`, to which they tell what they do."""
        ...

    def require_running(self) -> None:
        """Raise what ended the workers, if they have ended.

        Raises:
            UnavailableError: workers were lost.
        """
        ...


class Workers(Protocol):
    """Starts the workers of a training."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def field(self) -> str:
        """The field of the request that says so, for errors."""
        ...

    def started(self, work: Work) -> AbstractContextManager[Running]:
        """Start them for the time of the block.

        Raises:
            RequestError: there is too little room for them.
            UnavailableError: no Ray answers.
        """
        ...


def patience(settings: Settings) -> int:
    """Return for how many seconds a worker waits for another: one that waits for images keeps the others waiting."""
    return PATIENCE_SECONDS + settings.pipeline_store_wait_seconds

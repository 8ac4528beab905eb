"""What the search and the processes of its trials tell each other.

Every trial's process pays for what it imports before it trains, so nothing here imports MLflow or a searcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.vision.training.events import EpochEnd

NUMBER = "number"  # in a trial's config, beside the values chosen
EPOCH = "epoch"  # in a result: from 1
REPLAYED = "replayed"  # in a result: known from an earlier try, not trained again


class State(StrEnum):
    """What became of a trial."""

    RUNNING = "running"
    FINISHED = "finished"
    """It trained all its epochs, or until early stopping."""
    STOPPED = "stopped"
    """The scheduler ended it early."""
    FAILED = "failed"


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier try, which has a run."""

    number: int
    run_id: str
    values: Mapping[str, Any] = field(hash=False)
    """What the searcher chose."""
    config_sha256: str
    state: State
    error: str
    """Why it failed; empty otherwise."""
    history: tuple[EpochEnd, ...]
    """Epochs from 1 without a gap; empty for a trial that has not ended, whose checkpoint tells how far it got."""
    checkpoints: tuple[str, ...] = ()
    """Where its checkpoints may be, the newest first."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.state is not State.RUNNING

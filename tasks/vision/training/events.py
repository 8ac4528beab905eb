"""What a training tells its caller while it runs.

Who reads what a training told (`make tune-results`) does not wait for torch: it is imported for types only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.vision.training.linear_probe import Features, Probe

QUIET_SECONDS = 20.0  # a caller logs a line at least this often: a log stream that is silent for 60 s is cut off


@dataclass(frozen=True)
class Placed:
    """The workers of a training run, and have read what they need; again after one of them was lost."""

    machines: tuple[str, ...]
    """Host names, one for each worker."""
    device: str
    """`cpu`, `cuda` or `mps`."""
    precision: str
    """torch's name of it."""
    threads: int
    """Of each worker."""


@dataclass(frozen=True)
class Reading:
    """A batch of images whose features were computed, before the head is fitted to them."""

    images: int
    """Images so far."""
    total: int


@dataclass(frozen=True)
class HeadFitted:
    """The last layer was fitted to the features of all images; comes before the `EpochEnd` of that epoch."""

    train: Features
    validation: Features
    probe: Probe
    """Fitted to the training images; it has not seen the validation images."""
    class_weights: Tensor | None


@dataclass(frozen=True)
class BatchEnd:
    """One training batch, every `log_every` of them."""

    step: int
    """Batches since the start of training, from 1."""
    epoch: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Pause:
    """Between two batches of an epoch, every `epoch.PAUSE_SECONDS`: a checkpoint here begins with the next batch."""

    step: int
    """Batches since the start of training."""


@dataclass(frozen=True)
class EpochEnd:
    """One pass over the training images, and the validation after it."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the augmented training images, with label smoothing, while the weights were changing."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    """Of the last batch."""
    images_per_second: float
    """Training images by the seconds of training alone, without validation and logging."""
    epoch_seconds: float
    """Training and validation."""
    data_wait_share: float | None = None
    """Of the seconds of training, 0 to 1: those in which no batch was there to train on, in the worker that waited
    longest, as the others wait for it. None: trained by an earlier release, which did not measure it."""

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured, by name."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self) if item.name != "epoch")
        return {name: value for name, value in values if value is not None}


Event = Placed | Reading | HeadFitted | BatchEnd | Pause | EpochEnd

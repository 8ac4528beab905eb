"""The settings of one training: hyperparameters, which a search may choose, and options, which it may not.

A request may leave each hyperparameter open (None); in the `Recipe` that training follows, every value is set.
This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.contract.datasets import NOT_FLIPPED
from tasks.contract.messages import Message
from tasks.contract.networks import CHOICES, LEARNING_RATE, LEARNING_RATES, NETWORKS, Architecture

Schedule = Literal["one_cycle", "cosine", "plateau"]
BatchSize = Annotated[int, Field(ge=2, le=8192)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]


class Hyperparameters(Message):
    """The values that a search chooses, with their defaults."""

    batch_size: BatchSize = 64
    learning_rate: LearningRate = LEARNING_RATE
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    schedule: Schedule = "one_cycle"
    augmentation: Strength = 0.5
    label_smoothing: Smoothing = 0.0


class GivenHyperparameters(Message):
    """The same values in a request: one that is set explicitly overrides tuned values and defaults."""

    batch_size: BatchSize | None = Field(None, description="Images per step. Default: tuned, else 64.")
    learning_rate: LearningRate | None = Field(
        None, description=f"Peak learning rate. Default: tuned, else {LEARNING_RATES}."
    )
    momentum: Momentum | None = Field(
        None, description="Nesterov momentum of SGD, or beta 1 of AdamW. Default: tuned, else 0.9."
    )
    weight_decay: WeightDecay | None = Field(
        None, description="Weight decay of parameters with two or more dimensions. Default: tuned, else 0.0005."
    )
    schedule: Schedule | None = Field(
        None, description="How the learning rate changes over the epochs. Default: tuned, else one_cycle."
    )
    augmentation: Strength | None = Field(
        None, description="Strength of shifts, flips and erasing; 0 turns them off. Default: tuned, else 0.5."
    )
    label_smoothing: Smoothing | None = Field(
        None, description="Share of the target spread over the other classes. Default: tuned, else 0."
    )

    @property
    def given(self) -> dict[str, Any]:
        """The hyperparameters that the request sets explicitly, by name."""
        return {name: getattr(self, name) for name in Hyperparameters.model_fields if getattr(self, name) is not None}


class TrainingOptions(Message):
    """The settings that no search chooses, except the network where a search space lists several."""

    model: Architecture = Field("fast_cnn", description=f"Network: {CHOICES}.")
    epochs: int = Field(15, ge=1, le=1000, description="Passes over the training images.")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warmup_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of the steps in which the learning rate rises (one_cycle)."
    )
    flip: bool | None = Field(
        None, description=f"Mirror images left-right at random. Default: yes, except for {NOT_FLIPPED}."
    )
    gradient_clip: float = Field(0.0, ge=0, description="Maximum gradient norm; 0 means no limit.")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay per step of the moving average of the weights; 0 turns it off."
    )
    patience: int = Field(0, ge=0, description="Epochs without improvement before training stops; 0 means never.")
    min_delta: float = Field(0.0, ge=0, lt=1, description="Smallest improvement of validation accuracy that counts.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: mixed precision where it is faster."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31, description="Same seed, same losses on the same CPU.")
    log_every: int = Field(50, ge=0, description="Log metrics every this many batches; 0 means once per epoch.")


class Recipe(Hyperparameters, TrainingOptions):
    """All settings that `tasks.vision.training.loop` follows."""


class TrainingRequest(GivenHyperparameters, TrainingOptions):
    """What requests to train and to tune have in common."""

    def recipe(self, chosen: Hyperparameters | Mapping[str, Any] | None = None) -> Recipe:
        """Set every value: the explicit one, else that in `chosen`, else the network's default, else the general one.

        Args:
            chosen: all hyperparameters, or some of them; a trial may choose the `model` too.

        Raises:
            ValidationError: a chosen value is outside its limits.
        """
        values = chosen.model_dump() if isinstance(chosen, Hyperparameters) else dict(chosen or {})
        options = {name: getattr(self, name) for name in TrainingOptions.model_fields}
        network = NETWORKS.get(values.get("model", self.model))  # None: Recipe refuses the name
        of_network = {"learning_rate": network.learning_rate} if network else {}
        return Recipe.model_validate({**options, **of_network, **values, **self.given})

"""The settings of one training: hyperparameters, which a search may choose, and options, which it may not.

A request may leave most of them open; in the `Recipe` that training follows, every value is set. What is open gets its
value from a search, else from the defaults of the `Basis`: data, network and device.
This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.contract.datasets import DATASETS, NETWORK, NOT_FLIPPED
from tasks.contract.messages import Message
from tasks.contract.networks import CHOICES, LEARNING_RATE, Architecture, find
from tasks.errors import RequestError

Schedule = Literal["one_cycle", "cosine", "plateau"]
Optimizer = Literal["sgd", "adamw"]
FineTune = Literal["scratch", "head", "full", "gradual"]
AutoAugment = Literal["none", "trivial", "rand"]
ClassBalance = Literal["none", "weights", "sampler"]
BatchSize = Annotated[int, Field(ge=2, le=8192)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
LayerDecay = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]

EPOCHS = 15  # from random weights
# Pretrained weights need few steps: about so many images in all, however many there are of them.
FINE_TUNED_IMAGES = {"cpu": 12_000, "gpu": 200_000}
# Pretrained networks recognise little in images that are smaller; enlarging them costs time and gains much accuracy.
FINE_TUNED_SIDE = 128
LARGER_SIDE, LARGER_UP_TO = 160, 500  # where the time is short: with finetune=head, or up to so many training images
FINE_TUNED_EPOCHS = {"cpu": (3, 30), "gpu": (5, 30)}
# Defaults for pretrained weights; measured in docs/benchmarks/transfer.md.
FINE_TUNED: dict[str, Any] = {
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "layer_decay": 0.75,
    "label_smoothing": 0.1,
}
AUTO, NONE, PRETRAINED = "auto", "none", "pretrained"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")  # of files with weights


class Hyperparameters(Message):
    """The values that a search chooses, with their defaults for random weights."""

    batch_size: BatchSize = 64
    learning_rate: LearningRate = LEARNING_RATE
    layer_decay: LayerDecay = 1.0
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    schedule: Schedule = "one_cycle"
    augmentation: Strength = 0.5
    auto_augment: AutoAugment = "none"
    mixup: Strength = 0.0
    cutmix: Strength = 0.0
    label_smoothing: Smoothing = 0.0
    class_balance: ClassBalance = "none"


def _default(name: str) -> str:
    """State the default of a hyperparameter for the form, with the one for pretrained weights."""
    value = Hyperparameters.model_fields[name].default
    other = FINE_TUNED.get(name, value)
    return f"Default: tuned, else {value}" + (f", or {other} with pretrained weights." if other != value else ".")


class GivenHyperparameters(Message):
    """The same values in a request: one that is set explicitly overrides tuned values and defaults."""

    batch_size: BatchSize | None = Field(None, description=f"Images per step. {_default('batch_size')}")
    learning_rate: LearningRate | None = Field(None, description=f"Peak learning rate. {_default('learning_rate')}")
    layer_decay: LayerDecay | None = Field(
        None,
        description="Factor of the learning rate from one layer of a pretrained network to the one before it; "
        f"1 means the same for all. {_default('layer_decay')}",
    )
    momentum: Momentum | None = Field(
        None, description=f"Nesterov momentum of SGD, or beta 1 of AdamW. {_default('momentum')}"
    )
    weight_decay: WeightDecay | None = Field(
        None, description=f"Weight decay of parameters with two or more dimensions. {_default('weight_decay')}"
    )
    schedule: Schedule | None = Field(
        None, description=f"How the learning rate changes over the epochs. {_default('schedule')}"
    )
    augmentation: Strength | None = Field(
        None,
        description=f"Strength of crops or shifts, flips and erasing; 0 turns them off. {_default('augmentation')}",
    )
    auto_augment: AutoAugment | None = Field(
        None,
        description="Random operations on colours and geometry. `trivial`: TrivialAugment, one for each image, of any "
        f"strength. `rand`: RandAugment, two of medium strength. {_default('auto_augment')}",
    )
    mixup: Strength | None = Field(
        None,
        description="Alpha of MixUp, which blends two images and their labels; 0 turns it off, 0.2 is usual. With "
        f"cutmix, each batch gets one of the two. {_default('mixup')}",
    )
    cutmix: Strength | None = Field(
        None,
        description="Alpha of CutMix, which pastes a part of another image and mixes the labels; 0 turns it off, 1 is "
        f"usual. {_default('cutmix')}",
    )
    label_smoothing: Smoothing | None = Field(
        None, description=f"Share of the target spread over the other classes. {_default('label_smoothing')}"
    )
    class_balance: ClassBalance | None = Field(
        None,
        description="For classes with few images. `weights`: the loss of an image counts more the rarer its class. "
        f"`sampler`: images of each class are drawn equally often. {_default('class_balance')}",
    )

    @property
    def given(self) -> dict[str, Any]:
        """The hyperparameters that the request sets explicitly, by name."""
        return {name: getattr(self, name) for name in Hyperparameters.model_fields if getattr(self, name) is not None}


class TrainingOptions(Message):
    """The settings that no search chooses and that do not depend on data, network or device."""

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
    seed: int = Field(0, ge=0, lt=2**31, description="Same seed, same losses on the same CPU with as many threads.")
    log_every: int = Field(50, ge=0, description="Log metrics every this many batches; 0 means once per epoch.")


class Recipe(Hyperparameters, TrainingOptions):
    """All settings that `tasks.vision.training.loop` follows."""

    model: Architecture = NETWORK
    finetune: FineTune = "scratch"
    input_side: int | None = Field(None, ge=8, le=1024)
    epochs: int = Field(EPOCHS, ge=1, le=1000)
    optimizer: Optimizer = "sgd"


@dataclass(frozen=True)
class Basis:
    """What the defaults of a recipe depend on.

    Attributes:
        dataset: name of the data set.
        images: number of training images.
        side: the shorter side of the images, in pixels.
        pretrained: the networks that start from trained weights.
        device: `gpu` or `cpu`.
    """

    dataset: str
    images: int
    side: int
    pretrained: frozenset[str] = frozenset()
    device: Literal["cpu", "gpu"] = "cpu"

    @property
    def fine_tuned_epochs(self) -> int:
        """Epochs of a fine-tuning: fewer with more images, as each takes longer and teaches more."""
        least, most = FINE_TUNED_EPOCHS[self.device]
        return max(least, min(most, round(FINE_TUNED_IMAGES[self.device] / self.images)))


def _is_weights(weights: str) -> str:
    if weights in (AUTO, NONE, PRETRAINED) or "/" in weights or weights.lower().endswith(SUFFIXES):
        return weights
    raise ValueError(f"not weights; give {AUTO}, {NONE}, {PRETRAINED}, a file, an s3:// address or models:/NAME@ALIAS")


class NetworkOptions(Message):
    """Which network is trained and what it starts from."""

    model: Architecture | None = Field(
        None,
        description=f"Network: {CHOICES}; or any other classification network of timm, by name. Default: "
        f"{DATASETS['image_folder'].network} for image_folder if it may start from pretrained weights, else {NETWORK}.",
    )
    weights: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_is_weights)] = Field(
        AUTO,
        description="Weights that the network starts from. `auto`: pretrained where they are at hand. `none`: random. "
        "`pretrained`: fails if they are not at hand. Or a .safetensors or .pt file, s3://BUCKET/KEY, or "
        "models:/NAME@ALIAS to go on from an own model.",
    )
    finetune: FineTune | None = Field(
        None,
        description="What is trained. `head`: only the last layer, in seconds. `full`: all layers. `gradual`: first "
        "the last layer, then all. `scratch`: all, from random weights. Default: gradual with pretrained weights, "
        "else scratch.",
    )
    input_side: int | None = Field(
        None,
        ge=8,
        le=1024,
        description=f"Side to which images are enlarged for the network, in pixels. Default: "
        f"{FINE_TUNED_SIDE} for smaller images with pretrained weights ({LARGER_SIDE} with finetune=head or up to "
        f"{LARGER_UP_TO} training images), else image_size.",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description=f"Passes over the training images. Default: {EPOCHS}; with pretrained weights fewer the more "
        "images there are. With gradual, the first one trains the last layer.",
    )
    optimizer: Optimizer | None = Field(None, description="Default: sgd, or adamw with pretrained weights.")

    @model_validator(mode="after")
    def _weights_fit_finetune(self) -> Self:
        if self.weights == NONE and self.finetune not in (None, "scratch"):
            raise ValueError(f"finetune={self.finetune!r} needs weights, and weights={NONE!r}; leave one of them out")
        if self.finetune == "scratch" and self.weights not in (AUTO, NONE):
            raise ValueError(f"finetune='scratch' uses no weights={self.weights!r}; leave one of them out")
        return self

    @property
    def starts_from_weights(self) -> bool:
        """Whether the request allows trained weights."""
        return self.weights != NONE and self.finetune != "scratch"

    def network(self, dataset: str) -> str:
        """Return the network to train on a data set."""
        if self.model is not None:
            return self.model
        return DATASETS[dataset].network if dataset in DATASETS and self.starts_from_weights else NETWORK


class TrainingRequest(GivenHyperparameters, TrainingOptions, NetworkOptions):
    """What requests to train and to tune have in common."""

    def recipe(self, basis: Basis, chosen: Hyperparameters | Mapping[str, Any] | None = None) -> Recipe:
        """Set every value: the explicit one, else that in `chosen`, else the default for the basis.

        Args:
            basis: what the defaults depend on.
            chosen: all hyperparameters, or some of them; a trial may choose the `model` too.

        Raises:
            RequestError: something is to be fine-tuned that has no trained weights.
            ValidationError: a chosen value is outside its limits.
        """
        values = chosen.model_dump() if isinstance(chosen, Hyperparameters) else dict(chosen or {})
        name = values.get("model", self.network(basis.dataset))
        defaults: dict[str, Any]
        if name in basis.pretrained:
            finetune = self.finetune or "gradual"
            defaults = {**FINE_TUNED, "epochs": 1 if finetune == "head" else basis.fine_tuned_epochs}
            quick = finetune == "head" or basis.images <= LARGER_UP_TO
            side = LARGER_SIDE if quick else FINE_TUNED_SIDE
            if find(name).family == "timm" and basis.side < side:
                defaults["input_side"] = side
        elif self.finetune in (None, "scratch"):
            finetune, defaults = "scratch", {"learning_rate": find(name).learning_rate}
        else:
            raise RequestError(
                f"finetune={self.finetune!r} needs trained weights of {name}, and there are none here; fetch them with "
                f"`make weights MODEL={name}`, or set weights to a file, s3://BUCKET/KEY or models:/NAME@ALIAS"
            )
        given = {field: getattr(self, field) for field in ("input_side", "epochs", "optimizer")}
        options = {field: getattr(self, field) for field in TrainingOptions.model_fields}
        asked = {field: value for field, value in {**given, **self.given}.items() if value is not None}
        return Recipe.model_validate({**options, **defaults, **values, **asked, "model": name, "finetune": finetune})

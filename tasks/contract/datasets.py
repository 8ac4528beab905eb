"""The data sets that can be prepared, one entry each. A new data set is a new entry here.

Any data set of torchvision that has classes and a `train` argument needs only its entry. A new way to read images also
needs a case in `tasks.vision.data.sources.open_source`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tasks.contract.table_key import KeyOf

NOT_STATED = "not stated"
NETWORK = "fast_cnn"


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits, which need no download."""


@dataclass(frozen=True)
class Torchvision:
    """A class of `torchvision.datasets`, which downloads the images; they keep their size."""

    constructor: str


@dataclass(frozen=True)
class Files:
    """An image folder at the request's `source`; by default the images keep their size, up to `largest_side`."""

    largest_side: int


@dataclass(frozen=True)
class DataSet:
    """One data set and its defaults.

    Attributes:
        description: what the images show, for the form.
        opener: how the images are read.
        licence: licence of the images, as their authors state it.
        flip: whether a mirrored image still belongs to its class.
        network: what is trained on it by default.
    """

    description: str
    opener: Digits | Torchvision | Files
    licence: str = NOT_STATED
    flip: bool = True
    network: str = NETWORK

    @property
    def needs_source(self) -> bool:
        """Whether a request has to say where the images are."""
        return isinstance(self.opener, Files)


_CIFAR_LICENCE = "none stated by the authors (A. Krizhevsky, V. Nair, G. Hinton)"

DATASETS: dict[str, DataSet] = {
    "digits": DataSet(
        "handwritten digits, no download needed",
        Digits(),
        licence="CC BY 4.0 (Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI)",
        flip=False,  # a mirrored digit is a different symbol
    ),
    "cifar10": DataSet("photos in 10 classes", Torchvision("CIFAR10"), _CIFAR_LICENCE),
    "cifar100": DataSet("photos in 100 classes", Torchvision("CIFAR100"), _CIFAR_LICENCE),
    "fashion_mnist": DataSet("clothes in 10 classes", Torchvision("FashionMNIST"), "MIT (Zalando SE)"),
    "image_folder": DataSet("your own images, at source", Files(largest_side=224), network="efficientnet_lite0"),
}
DatasetName = Annotated[str, KeyOf(DATASETS)]
# For the form: what each data set shows, and the data sets whose images are not mirrored in training.
CHOICES = "; ".join(f"{name} ({dataset.description})" for name, dataset in DATASETS.items())
NOT_FLIPPED = ", ".join(name for name, dataset in DATASETS.items() if not dataset.flip)


def require_source(dataset: str, source: str | None) -> None:
    """Check that `source` is given where the data set needs one, and only there.

    Raises:
        ValueError: naming the value and the fix.
    """
    needed = DATASETS[dataset].needs_source
    if needed and not source:
        raise ValueError(f"dataset={dataset!r} needs source: a folder or archive, local or s3://")
    if source and not needed:
        fitting = " or ".join(f"dataset={name!r}" for name, entry in DATASETS.items() if entry.needs_source)
        raise ValueError(f"source={source!r} goes with {fitting}, not {dataset!r}")


def flips(dataset: str) -> bool:
    """Whether training may mirror the images; True for a data set that is no longer in the table."""
    return dataset not in DATASETS or DATASETS[dataset].flip


def licence_of(dataset: str, given: str | None) -> str:
    """Return the licence set in the request, else that of the data set."""
    return given or DATASETS[dataset].licence

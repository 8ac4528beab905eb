"""timm's classification networks, with random weights or trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor, nn

from tasks.contract.networks import Normalisation
from tasks.errors import DataError, RequestError

IMAGES = 4  # dimensions of the weights of a convolution


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
        RequestError: timm has no such weights of the network.
    """
    about = _about(constructor)
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
    about = _about(constructor)
    if channels == len(about.mean):
        return Normalisation(tuple(about.mean), tuple(about.std))
    return Normalisation((sum(about.mean) / len(about.mean),) * channels, (sum(about.std) / len(about.std),) * channels)


def _about(constructor: str) -> PretrainedCfg:
    """Return what timm knows of a network and of the weights that its name asks for."""
    try:
        about = timm.get_pretrained_cfg(constructor, allow_unregistered=False)
    except RuntimeError as error:
        name, _, tag = constructor.partition(".")
        known = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
        raise RequestError(
            f"model={constructor!r}: timm has no weights {tag!r} of {name}; choose one of {', '.join(known) or 'none'}"
        ) from error
    assert about is not None  # noqa: S101  # only where unregistered names are allowed
    return about


def _overlay(about: PretrainedCfg, trained: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe `trained` as timm wants it: how many classes and channels it is for."""
    described: dict[str, Any] = {"state_dict": dict(trained), "custom_load": False, "label_offset": 0}
    if (head := trained.get(f"{_first(about.classifier)}.weight")) is not None:
        described["num_classes"] = len(head)
    if (stem := trained.get(f"{_first(about.first_conv)}.weight")) is not None and stem.ndim == IMAGES:
        described["input_size"] = (stem.shape[1], *about.input_size[1:])
    return described


def _first(names: str | tuple[str, ...] | None) -> str | None:
    """Return the one name, or the first of several: timm has networks with two heads."""
    return names if isinstance(names, str) or names is None else names[0]

"""Makes a network that can be trained: normalised images in, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor, nn

from tasks.contract.networks import Network, find
from tasks.errors import DataError, ModelError, RequestError
from tasks.vision.models import weights
from tasks.vision.models.classifier import Classifier, Enlargement
from tasks.vision.models.fast_cnn import FastCNN
from tasks.vision.models.preprocessing import MEAN, STD


def build(
    architecture: str, classes: int, shape: tuple[int, int, int], trained: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global random numbers, or with trained ones.

    Args:
        architecture: a name in the contract's table `NETWORKS`, or of a network of timm.
        classes: number of classes, at least 2.
        shape: channels, height and width of an image; height and width at least the network's `smallest_side`.
        trained: weights by name (see `weights.read`); those of the head are used if they are for as many classes.

    Returns:
        A module from normalised float images [N, C, H, W] to logits [N, classes].

    Raises:
        RequestError: the architecture is unknown.
        DataError: fewer than two classes, or images of a size that the network cannot take.
        ModelError: the weights are those of another network.
    """
    channels, height, width = shape
    try:
        network = find(architecture)
    except ValueError as error:
        raise RequestError(f"model={architecture!r}: {error}") from error
    if classes < 2:
        raise DataError(f"a classifier needs at least 2 classes, not {classes}; add images of another class")
    if min(height, width) < network.smallest_side:
        raise DataError(
            f"images of {height}x{width} pixels are too small for {architecture}; "
            f"set image_size to {network.smallest_side} or more"
        )
    side = max(height, width)
    built = _make(network, classes, channels, side)
    if trained is None:
        return built
    expected = built.state_dict()
    head = head_name(built, classes)
    fitted = weights.fit(trained, expected, (f"{head}.weight", f"{head}.bias"), architecture)
    try:
        if network.family == "timm":
            return _make(network, classes, channels, side, fitted)
        for name in (f"{head}.weight", f"{head}.bias"):
            if name in fitted and len(fitted[name]) != classes:  # the head of other classes
                del fitted[name]
        built.load_state_dict(fitted, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit {architecture} for {channels} channels and {side} pixels ({error}); "
            "set model to the network that they were trained as, and image_size to its size"
        ) from error
    return built


def build_again(
    architecture: str,
    classes: int,
    shape: tuple[int, int, int],
    stored: Mapping[str, Tensor],
    side: int | None = None,
) -> Classifier:
    """Make a classifier from the tensors that it was stored with.

    Args:
        architecture: its network's name.
        classes: number of classes.
        shape: channels, height and width of its images.
        stored: its tensors by name (see `weights.read`), with the mean and standard deviation of pixels.
        side: of the images that its network sees, if it enlarges them.

    Raises:
        ModelError: they are not those of this network.
    """
    channels, height, width = shape
    enlarge = Enlargement(side) if side is not None and (height, width) != (side, side) else None
    seen = (channels, height, width) if enlarge is None else (channels, enlarge.side, enlarge.side)
    missing = [name for name in (MEAN, STD) if name not in stored]
    if missing:
        raise ModelError(f"the model has no tensor {missing[0]!r}; give one that this pipeline trained")
    mean, std = (stored[name].flatten().tolist() for name in (MEAN, STD))
    return Classifier(build(architecture, classes, seen, stored), mean, std, enlarge).eval()


def _make(
    network: Network, classes: int, channels: int, side: int, trained: Mapping[str, Tensor] | None = None
) -> nn.Module:
    match network.family:
        case "fast_cnn":
            return FastCNN(classes, channels, side)
        case "resnet":
            from tasks.vision.models.torchvision_networks import resnet  # a second, which fast_cnn need not wait for

            return resnet(network.constructor, classes, channels, side)
        case "mobilenet":
            from tasks.vision.models.torchvision_networks import mobilenet

            return mobilenet(network.constructor, classes, channels, side)
        case "timm":
            from tasks.vision.models import timm_networks

            return timm_networks.make(network.constructor, classes, channels, side, trained)
        case _ as unknown:
            assert_never(unknown)


def head_name(network: nn.Module, classes: int) -> str:
    """Return the name of a network's head, its last linear layer; empty if it ends with another kind of layer."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = linear[-1] if linear else ""
    return last if last and network.get_submodule(last).out_features == classes else ""

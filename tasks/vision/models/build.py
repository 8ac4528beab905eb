"""Makes a network that can be trained: normalised images in, logits out."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from tasks.contract.networks import NETWORKS
from tasks.errors import DataError, RequestError
from tasks.vision.models.fast_cnn import FastCNN


def build(architecture: str, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global random numbers.

    Args:
        architecture: a name in the contract's table `NETWORKS`.
        classes: number of classes, at least 2.
        shape: channels, height and width of an image; height and width at least the network's `smallest_side`.

    Returns:
        A module from normalised float images [N, C, H, W] to logits [N, classes].

    Raises:
        RequestError: the architecture is unknown.
        DataError: fewer than two classes, or images that are too small.
    """
    channels, height, width = shape
    if architecture not in NETWORKS:
        raise RequestError(f"model={architecture!r} is unknown; choose one of {', '.join(NETWORKS)}")
    if classes < 2:
        raise DataError(f"a classifier needs at least 2 classes, not {classes}; add images of another class")
    network = NETWORKS[architecture]
    if min(height, width) < network.smallest_side:
        raise DataError(
            f"images of {height}x{width} pixels are too small for {architecture}; "
            f"set image_size to {network.smallest_side} or more"
        )
    side = max(height, width)
    match network.family:
        case "fast_cnn":
            return FastCNN(classes, channels, side)
        case "resnet":
            from tasks.vision.models.torchvision_networks import resnet  # a second, which fast_cnn need not wait for

            return resnet(network.constructor, classes, channels, side)
        case "mobilenet":
            from tasks.vision.models.torchvision_networks import mobilenet

            return mobilenet(network.constructor, classes, channels, side)
        case _ as unknown:
            assert_never(unknown)

"""torchvision's networks with fresh weights and a stem that suits number of channels and size of the images.

A family is the networks that have their stem in the same place, so one function adapts them all.
"""

from __future__ import annotations

from torch import nn
from torchvision import models

from tasks.vision.models.stem import SMALL_SIDE, stem_stride

# torchvision's MobileNets average batch statistics over 100 steps, which suits ImageNet's half a million. Here an epoch
# may have twenty steps, and validation would see statistics from before the weights had learnt anything.
BATCH_NORM_MOMENTUM = 0.1


def resnet(constructor: str, classes: int, channels: int, side: int) -> nn.Module:
    """Make a network of the ResNet family: stem `conv1`, then `maxpool`, which small images skip.

    Args:
        constructor: name of the function in `torchvision.models`.
        classes: number of classes.
        channels: channels of an image.
        side: the longer side of an image, in pixels.
    """
    network: nn.Module = models.get_model(constructor, weights=None, num_classes=classes)
    if side <= SMALL_SIDE:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def mobilenet(constructor: str, classes: int, channels: int, side: int) -> nn.Module:
    """Make a network of the MobileNet family (EfficientNet too): stem `features.0.0`; arguments as for `resnet`."""
    network: nn.Module = models.get_model(constructor, weights=None, num_classes=classes)
    width = len(network.get_parameter("features.0.0.weight"))
    stem = nn.Conv2d(channels, width, 3, stride=stem_stride(side), padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.get_submodule("features.0")[0] = stem  # type: ignore[operator]  # an nn.Sequential
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    return network

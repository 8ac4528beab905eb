"""The networks, and the classifier around them that training leaves for evaluation and serving.

`build` makes a network that training can work on: normalised floats in, logits out. `Classifier` is what is kept:
pixels in, probabilities out, with normalisation and softmax inside, so that train and serve cannot differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from tasks.contract.recipe import Architecture
from tasks.errors import DataError, RequestError

# Up to this side the first convolution keeps the resolution: torchvision's stems are made for 224 pixels and would
# leave 32-pixel images one position wide before the last stages.
SMALL_SIDE = 64
SMALLEST_SIDE = 8
# torchvision's MobileNets average batch statistics over 100 steps, as fits ImageNet's half a million. Here an epoch
# may have twenty steps, and validation would see statistics from before the weights had learnt anything.
BATCH_NORM_MOMENTUM = 0.1


class FastCNN(nn.Module):
    """Five convolutions in three stages: 0.3 million parameters, quick on a CPU.

    Resolution is halved between stages, and once more at the entrance for sides above `SMALL_SIDE`. Features are
    pooled by their maximum: on a few pixels, whether a stroke is there says more than how much of it.
    """

    def __init__(self, classes: int, channels: int, side: int) -> None:
        """Make the layers for `channels` input channels and square images of `side` pixels."""
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(channels, 32, stride=_stem_stride(side)),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 64),
            *_convolution(64, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 128),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] for normalised float images [N, C, H, W]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


class Classifier(nn.Module):
    """Pixels to probabilities: the form in which a model is logged, scored and served."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap `network` (see `build`) with the per-channel mean and deviation of pixels scaled to 0..1."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, float32 [N, classes], for uint8 images [N, C, H, W]."""
        normalised = (images.float() / 255 - self.mean) / self.std
        logits: Tensor = self.network(normalised)
        return logits.float().softmax(dim=1)


def build(architecture: str, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Make a network with fresh weights from torch's global random numbers.

    Args:
        architecture: One of the contract's `Architecture` names.
        classes: Number of classes, at least 2.
        shape: Channels, height and width of an image; height and width at least 8 pixels.

    Returns:
        A module from normalised float images [N, C, H, W] to logits [N, classes].

    Raises:
        RequestError: the architecture is unknown.
        DataError: fewer than two classes, or images that are too small.
    """
    channels, height, width = shape
    if architecture not in get_args(Architecture):
        raise RequestError(f"model={architecture!r} is unknown; choose one of {', '.join(get_args(Architecture))}")
    if classes < 2:
        raise DataError(f"{classes} class cannot be told apart; give the data set at least 2")
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(f"images of {height}x{width} pixels are too small; set image_size to {SMALLEST_SIDE} or more")
    side = max(height, width)
    if architecture == "fast_cnn":
        return FastCNN(classes, channels, side)
    if architecture == "resnet18":
        return _resnet18(classes, channels, side)
    return _mobilenet(architecture, classes, channels, side)


def digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model: the name, dtype, shape and bytes of everything in its state dict.

    Names and shapes tell architectures apart, and a `Classifier` exported and loaded again has the same digest.
    """
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        sha256.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        sha256.update(array.view(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Count parameters: `total`, `trainable` (they get gradients) and `frozen` (they do not)."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trainable": trainable, "frozen": total - trainable}


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _stem_stride(side: int) -> int:
    return 1 if side <= SMALL_SIDE else 2


def _resnet18(classes: int, channels: int, side: int) -> nn.Module:
    # Imported here: torchvision costs a second, which fast_cnn need not wait for.
    from torchvision.models import resnet18

    network: nn.Module = resnet18(weights=None, num_classes=classes)
    if side <= SMALL_SIDE:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def _mobilenet(architecture: str, classes: int, channels: int, side: int) -> nn.Module:
    from torchvision.models import mobilenet_v3_large, mobilenet_v3_small

    make = mobilenet_v3_small if architecture == "mobilenet_v3_small" else mobilenet_v3_large
    network: nn.Module = make(weights=None, num_classes=classes)
    stem = nn.Conv2d(channels, 16, 3, stride=_stem_stride(side), padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.get_submodule("features.0")[0] = stem  # type: ignore[operator]  # an nn.Sequential
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    return network

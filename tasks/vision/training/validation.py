"""Loss and accuracy of a network on the validation images."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from tasks.vision.training.augment import ImageTensor

BATCH = 512


@torch.inference_mode()
def validate(network: nn.Module, images: ImageTensor) -> tuple[float, float]:
    """Return mean loss and accuracy; the network stays in evaluation mode."""
    network.eval()
    count = len(images)
    loss, correct = 0.0, 0
    for index in torch.arange(count, device=images.labels.device).tensor_split(math.ceil(count / BATCH)):
        pixels, labels = images.batch(index)
        logits = network(pixels)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum().item())
    return loss / count, correct / count

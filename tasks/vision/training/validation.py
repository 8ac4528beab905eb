"""What a network makes of the validation images: loss, accuracy and probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.vision.devices import images_at_once
from tasks.vision.training.augment import ImageTensor


def validate(network: nn.Module, images: ImageTensor) -> tuple[float, float]:
    """Return mean loss and accuracy; the network stays in evaluation mode."""
    loss, correct = 0.0, 0
    for logits, labels in _answers(network, images):
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum().item())
    loss, right = images.replicas.totals(loss, correct, device=images.labels.device)
    return loss / len(images), right / len(images)


def predict(network: nn.Module, images: ImageTensor) -> Tensor:
    """Return probabilities, float32 [N, classes], on the device; the network stays in evaluation mode."""
    own = torch.cat([logits.float().softmax(1) for logits, _ in _answers(network, images)])
    return images.replicas.gather(own)


def _answers(network: nn.Module, images: ImageTensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of this replica's part, batch by batch."""
    network.eval()
    for pixels, labels in images.batches(images_at_once(images.values, images.labels.device)):
        with torch.inference_mode():
            logits = network(pixels)
        yield logits, labels

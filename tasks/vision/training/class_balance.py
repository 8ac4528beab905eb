"""What gives classes with few images as much say as those with many: weights in the loss, or a balanced order."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights, float32 [classes], inverse to how many of the labels [N] are of a class.

    Their mean over the images is 1, so that a learning rate fits with and without them. A class without images has 0.
    """
    counts = torch.bincount(labels, minlength=classes)
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp_min(1)), 0)


def image_weights(targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weights [B] of images by their labels, int64 [B] or probabilities [B, classes]."""
    return weights[targets] if targets.ndim == 1 else (targets * weights).sum(1)


def loss(logits: Tensor, targets: Tensor, label_smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of logits [B, classes], each image weighted by its class if there are `weights`.

    It is divided by the number of images, not by the sum of their weights as torch does: that sum depends on which
    images happen to share a batch, and would give a batch of rare classes no more influence than another.

    Args:
        logits: of the network.
        targets: labels, int64 [B] or probabilities [B, classes].
        label_smoothing: share of each target that is spread over all classes.
        weights: of the classes.
    """
    if weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return (losses * image_weights(targets, weights)).mean()


def balanced_order(labels: Tensor) -> Tensor:
    """Draw as many indices as there are labels [N], in random order, each class equally often, give or take one.

    A class that needs more images than it has repeats all of them before one comes a third time, so that few images
    are left out. Random numbers are torch's global ones on the CPU, whatever the labels' device.
    """
    by_class = _indices_by_class(labels.cpu())
    share, rest = divmod(len(labels), len(by_class))
    one_more = set(torch.randperm(len(by_class))[:rest].tolist())
    drawn = []
    for number, own in enumerate(by_class):
        wanted = share + (number in one_more)
        rounds = [own[torch.randperm(len(own))] for _ in range(math.ceil(wanted / len(own)))]
        drawn.append(torch.cat(rounds)[:wanted])
    order = torch.cat(drawn)
    return order[torch.randperm(len(order))].to(labels.device)


def _indices_by_class(labels: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the images of each class that has any."""
    counts = torch.bincount(labels)
    return labels.argsort(stable=True).tensor_split(counts[counts > 0].cumsum(0)[:-1].tolist())

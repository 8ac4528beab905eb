"""In which order an epoch reads its images: a function of the seed and the epoch, wherever the images are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.vision.data.gold import WINDOW_BYTES, Split
from tasks.vision.training.batches import divided
from tasks.vision.training.class_balance import balanced_order


def epoch_batches(split: Split, labels: Tensor, steps: int, *, balanced: bool, one_size: bool) -> tuple[Tensor, ...]:
    """Return the positions of the images in each of `steps` batches of this epoch.

    Where images are shuffled in windows, those of a batch are in the order in which they are stored. So the shares of
    replicas, which divide each batch in the same way, lie in different shards: a shard is needed by one or two of
    them, not by all.

    Args:
        split: the images.
        labels: their labels [N], on the device that trains.
        steps: number of batches, at most N.
        balanced: draw every class equally often, in each window.
        one_size: all batches get the same size (`divided`).
    """
    batches = divided(epoch_order(split, labels, balanced=balanced), steps, one_size=one_size)
    return tuple(batch.sort().values for batch in batches) if _windows(split) > 1 else batches


def epoch_order(split: Split, labels: Tensor, *, balanced: bool) -> Tensor:
    """Return the positions of the images [N] in the order of this epoch, on the device of their labels.

    All images are shuffled at once, unless they have more than `WINDOW_BYTES`. Then the shards are shuffled, and the
    images of those that lie in one window: so few shards are needed at a time. Random numbers are torch's global ones,
    which the caller has seeded.

    Args:
        split: the images; where they are does not matter, only how many bytes and which shards they have.
        labels: their labels [N], on the device that trains.
        balanced: draw every class equally often, in each window.
    """
    if balanced:
        return _windowed(split, labels.cpu(), balanced_order).to(labels.device)
    if _windows(split) <= 1:
        return torch.randperm(len(labels), device=labels.device)
    return _windowed(split, labels.cpu(), lambda part: torch.randperm(len(part))).to(labels.device)


def _windowed(split: Split, labels: Tensor, shuffled: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `shuffled`, from labels [B] to positions among them, to all images or window by window."""
    windows = _windows(split)
    shards = [torch.arange(start, end) for start, end in zip(split.shards, split.shards[1:], strict=False)]
    if windows <= 1 or len(shards) <= 1:
        return shuffled(labels)
    order = torch.randperm(len(shards))
    parts = []
    for chosen in order.tensor_split(min(windows, len(shards))):
        window = torch.cat([shards[number] for number in chosen.tolist()])
        parts.append(window[shuffled(labels[window])])
    return torch.cat(parts)


def _windows(split: Split) -> int:
    return math.ceil(split.images.nbytes / WINDOW_BYTES)

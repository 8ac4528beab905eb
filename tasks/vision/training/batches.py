"""Divides the images of an epoch into batches."""

from __future__ import annotations

import torch
from torch import Tensor


def divided(order: Tensor, steps: int, *, one_size: bool) -> tuple[Tensor, ...]:
    """Divide `order`, the indices [N] of all images, into `steps` batches.

    No image is left out, and their sizes differ by one at most: batch normalisation never sees a batch of one.

    Args:
        order: the indices.
        steps: number of batches, at most N.
        one_size: all batches get the same size; to fill them, the first images come once more. A GPU takes seconds to
            prepare its kernels for each other size.
    """
    if one_size:
        order = torch.cat([order, order[: -len(order) % steps]])
    return order.tensor_split(steps)

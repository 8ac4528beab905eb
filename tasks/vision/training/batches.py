"""Divides the images of an epoch into batches, and says how many go through a network where it does not learn."""

from __future__ import annotations

import torch
from torch import Tensor

# Where a network does not learn. As many pixels as 512 images of 32 x 32: on a CPU more at once are slower, and 512
# images of 224 x 224 take 6 GB even in a small network.
CPU_VALUES = 512 * 3 * 32 * 32
FEWEST, MOST = 16, 512


def at_once(image_values: int, device: torch.device) -> int:
    """Return how many images go through a network together where it does not learn.

    Args:
        image_values: numbers in one image, as the network takes it.
        device: where the network is.
    """
    return max(FEWEST, min(MOST, CPU_VALUES // image_values)) if device.type == "cpu" else MOST


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

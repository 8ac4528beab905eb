"""MixUp and CutMix: batches in which each image is mixed with another one, and their labels in the same proportion.

Zhang et al., arXiv:1710.09412, and Yun et al., arXiv:1905.04899, by torchvision. On two cores, 32 images of
128x128 pixels take less than 1 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

# With a smaller alpha hardly any image is mixed visibly, and torch's beta distribution becomes wrong below about 1e-20.
SMALLEST_ALPHA = 1e-3

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images [B, C, H, W] and labels int64 [B] to images and labels, float32 [B, classes] if mixed."""


def make_mixing(mixup: float, cutmix: float, classes: int) -> Mix:
    """Return what mixes batches: by MixUp, by CutMix, by one of the two at random, or not at all.

    Args:
        mixup: alpha of the beta distribution of proportions: the higher, the more even; 0 turns MixUp off.
        cutmix: the same for CutMix.
        classes: number of classes.
    """
    if max(mixup, cutmix) < SMALLEST_ALPHA:
        return _unmixed
    from torchvision.transforms import v2  # takes a second to import

    kinds = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha >= SMALLEST_ALPHA
    ]
    return cast(Mix, kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds))


def _unmixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels

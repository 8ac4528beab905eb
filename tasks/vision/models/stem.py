"""The stem, a network's first convolution: it keeps the resolution of small images and halves that of large ones."""

from __future__ import annotations

# torchvision's stems are made for 224 pixels and would leave 32-pixel images one position wide before the last stages.
SMALL_SIDE = 64


def stem_stride(side: int) -> int:
    """Return the stride of the stem for images of `side` pixels."""
    return 1 if side <= SMALL_SIDE else 2

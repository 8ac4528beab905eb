"""Batches of images that stay in memory as uint8, augmented a whole batch at a time.

The usual way decodes, crops and flips one PIL image after another in worker processes. Here the images are decoded
once, by prepare, and a batch is one gather from a tensor: shifting costs the same as copying.
Random numbers are torch's global ones, on the images' device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tasks.vision.models.preprocessing import Preprocessing

# What full strength means, as shares of the image's side. Half of it is customary for CIFAR-10: 4 of 32 pixels.
LARGEST_SHIFT = 0.25
LARGEST_ERASURE = 0.5
# The same for crops, as the share of the image's area that is cut off; ImageNet trainings cut off up to 0.92.
LARGEST_CUT = 0.8
ASPECTS = (3 / 4, 4 / 3)  # of crops


@dataclass(frozen=True)
class Augmentation:
    """How far training images may be changed."""

    shift: int = 0
    """Largest shift in each direction, in pixels; what moves in is black."""
    flip: bool = False
    """Whether every second image, on average, is mirrored left-right."""
    erase: int = 0
    """Side of the square that is set to the mean colour, in pixels; 0 is none."""
    crop: float = 1.0
    """Smallest share of the image's area that a random crop keeps, which then fills the image; 1 is no crop."""

    @classmethod
    def of_photos(cls, strength: float, flip: bool) -> Augmentation:
        """Scale the crop with `strength`, 0 (images as they are, no flips) to 1."""
        return cls(flip=flip and strength > 0, crop=1 - LARGEST_CUT * strength)

    @classmethod
    def of(cls, strength: float, flip: bool, side: int) -> Augmentation:
        """Scale shift and erasure with `strength`, 0 (images as they are, no flips) to 1, for `side` pixels."""
        return cls(
            shift=round(LARGEST_SHIFT * strength * side),
            flip=flip and strength > 0,
            erase=round(LARGEST_ERASURE * strength * side),
        )


class ImageTensor:
    """The images and labels of one split on a device, read as normalised batches."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        preprocessing: Preprocessing,
        device: torch.device,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Move uint8 `images` [N, C, H, W] and int64 `labels` [N] to `device`.

        Without `augmentation` the images are only normalised, and enlarged if the network wants them larger.
        """
        self.augmentation = augmentation or Augmentation()
        self.labels = torch.from_numpy(labels).to(device)
        self._images = torch.from_numpy(images).to(device)  # on a CPU no copy: trials of a search share the memory
        self._offset = torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1) * 255)
        self._enlarge = preprocessing.enlarge

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, float32 [B, C, H, W] in channels_last layout and normalised, and labels [B] at `index`."""
        change, count, device = self.augmentation, len(index), index.device
        pixels = self._images[index]
        down, right = torch.randint(0, 2 * change.shift + 1, (2, count), device=device)
        if change.crop < 1:
            pixels = self._crops(pixels)
        if change.shift:
            height, width = pixels.shape[2:]
            padded = functional.pad(pixels, (change.shift,) * 4)
            # A view [B, C, shifts down, shifts right, H, W] of every crop there is, of which each image takes one.
            crops = padded.unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(count, device=device), :, down, right]
        if change.flip:
            mirrored = torch.rand(count, device=device) < 0.5
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        # A pixel's channels lie together, as convolutions want them.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        images = pixels.float().sub_(self._offset).mul_(self._scale)
        if self._enlarge is not None:
            images = self._enlarge(images)
        if change.erase:
            images.masked_fill_(_squares(count, *images.shape[2:], side=change.erase, device=device), 0)
        return images, self.labels[index]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in order, as `batch` does."""
        for index in torch.arange(len(self), device=self.labels.device).split(size):
            yield self.batch(index)

    def plain(self) -> ImageTensor:
        """Return the same images without augmentation."""
        plain = copy.copy(self)
        plain.augmentation = Augmentation()
        return plain

    def _crops(self, pixels: Tensor) -> Tensor:
        """Cut a random part out of each image [B, C, H, W], and bring it to the size that the network wants."""
        from torchvision.transforms import v2  # takes a second to import, for photos only

        side = pixels.shape[2:] if self._enlarge is None else (self._enlarge.side, self._enlarge.side)
        crop = v2.RandomResizedCrop(tuple(side), (self.augmentation.crop, 1.0), ASPECTS, antialias=True)
        return torch.stack([crop(image) for image in pixels])


def _squares(count: int, height: int, width: int, *, side: int, device: torch.device) -> Tensor:
    """Mask [count, 1, height, width] of one square each; its centre may lie anywhere, so that it may be cut off."""
    top = torch.randint(0, height, (count, 1), device=device) - side // 2
    left = torch.randint(0, width, (count, 1), device=device) - side // 2
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)

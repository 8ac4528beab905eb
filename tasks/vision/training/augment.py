"""Batches of images that stay in memory, or in shards on disk, as uint8, augmented a whole batch at a time.

The usual way decodes, crops and flips one PIL image after another in worker processes. Here the images are decoded
once, by prepare, and a batch is one gather from a tensor: shifting costs the same as copying. Only torchvision's
transforms with other random numbers for each image go through the batch image by image: TrivialAugment, RandAugment
and, except on CUDA, crops and erased rectangles.
Random numbers are torch's global ones: on the images' device, and for torchvision's transforms on the CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tasks.contract.recipe import AutoAugment, Recipe
from tasks.vision.data.gold import Images
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.data.shards.read_ahead import read_ahead
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training import random_regions
from tasks.vision.training.replicas import Replicas

# What full strength means, as shares of the image's side. Half of it is customary for CIFAR-10: 4 of 32 pixels.
LARGEST_SHIFT = 0.25
LARGEST_ERASURE = 0.5
# The same for crops, as the share of the image's area that is cut off; ImageNet trainings cut off up to 0.92.
LARGEST_CUT = 0.8
LARGEST_ERASED_SHARE = 0.5  # of the images, of which each loses one rectangle


@dataclass(frozen=True)
class Augmentation:
    """How far training images may be changed."""

    shift: int = 0
    """Largest shift in each direction, in pixels; what moves in is black."""
    flip: bool = False
    """Whether every second image, on average, is mirrored left-right."""
    erase: int = 0
    """Side of the square that is set to the mean colour, in pixels; 0 is none."""
    erased_share: float = 0.0
    """Share of the images in which a rectangle, a fiftieth to a third of the area, is set to the mean colour."""
    crop: float = 1.0
    """Smallest share of the image's area that a random crop keeps, which then fills the image; 1 is no crop."""
    auto: AutoAugment = "none"
    """Random operations on colours and geometry, whatever the strength of the rest."""

    @classmethod
    def of(cls, recipe: Recipe, flip: bool, side: int) -> Augmentation:
        """Follow a recipe for images of `side` pixels; its `augmentation` is the strength, 0 (none, no flips) to 1.

        Fine-tuning crops and erases as trainings on photos do, training from random weights as those on small images.
        """
        strength, auto = recipe.augmentation, recipe.auto_augment
        flip = flip and strength > 0
        if recipe.finetune != "scratch":
            share = LARGEST_ERASED_SHARE * strength
            return cls(flip=flip, crop=1 - LARGEST_CUT * strength, erased_share=share, auto=auto)
        shift, erase = round(LARGEST_SHIFT * strength * side), round(LARGEST_ERASURE * strength * side)
        return cls(shift=shift, flip=flip, erase=erase, auto=auto)


class ImageTensor:
    """The images and labels of one split on a device, read as normalised batches."""

    def __init__(
        self,
        images: Images,
        labels: NDArray[np.int64],
        preprocessing: Preprocessing,
        device: torch.device,
        augmentation: Augmentation | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        """Move uint8 `images` [N, C, H, W] and int64 `labels` [N] to `device`; images on disk stay there.

        Without `augmentation` the images are only normalised, and enlarged if the network wants them larger. Only the
        share of this one of `replicas` is read.
        """
        self.augmentation = augmentation or Augmentation()
        self.replicas = replicas or Replicas()
        self.labels = torch.from_numpy(labels).to(device)
        # On a CPU no copy: trials of a search share the memory.
        self._images = torch.from_numpy(images).to(device) if isinstance(images, np.ndarray) else images
        self._mirrored = False
        self._offset = torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1) * 255)
        self._enlarge = preprocessing.enlarge

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def values(self) -> int:
        """Numbers in one image, as the network takes it."""
        channels, *sides = self._images.shape[1:]
        return channels * (math.prod(sides) if self._enlarge is None else self._enlarge.side**2)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, float32 [B, C, H, W] in channels_last layout and normalised, and labels [B] at `index`."""
        return next(self.read([index]))

    def read(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `batch` returns for the indices of each batch; images on disk are read ahead."""
        shares = [self.replicas.share(index) for index in batches]
        for whole, own, pixels in zip(batches, shares, self._pixels(shares), strict=True):
            yield self._augmented(pixels, len(whole)), self.labels[own]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images as `batch` does, but not augmented: all once, in order, at most `size` at a time.

        A replica gets its part of all images, so that it reads few of the shards.
        """
        own = self.replicas.share(torch.arange(len(self), device=self.labels.device))
        parts = own.tensor_split(math.ceil(len(own) / size))
        for index, pixels in zip(parts, self._pixels(parts), strict=True):
            yield self._normalised(pixels), self.labels[index]

    def mirrored(self) -> ImageTensor:
        """Return the same images mirrored left-right."""
        mirrored = copy.copy(self)
        mirrored._mirrored = True
        return mirrored

    def _pixels(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images at the indices of each batch, uint8 [B, C, H, W], on the device."""
        device = self.labels.device
        read: Iterator[Tensor]
        if isinstance(self._images, Tensor):
            read = (self._images[index] for index in batches)
        else:
            positions = [index.cpu().numpy() for index in batches]
            if isinstance(self._images, ShardImages):
                read = map(torch.from_numpy, read_ahead(self._images, positions))
            else:
                read = (torch.from_numpy(self._images[index]) for index in positions)
        for pixels in read:
            yield pixels.to(device).flip(3) if self._mirrored else pixels.to(device)

    def _augmented(self, pixels: Tensor, whole: int) -> Tensor:
        """Augment and normalise this replica's share, uint8 [B, C, H, W], of a batch of `whole` images."""
        change, count, device, replicas = self.augmentation, len(pixels), pixels.device, self.replicas
        down, right = replicas.share(torch.randint(0, 2 * change.shift + 1, (2, whole), device=device), 1)
        if change.crop < 1:
            with replicas.own_random():
                pixels = self._crops(pixels)
        if change.shift:
            height, width = pixels.shape[2:]
            padded = functional.pad(pixels, (change.shift,) * 4)
            # A view [B, C, shifts down, shifts right, H, W] of every crop there is, of which each image takes one.
            crops = padded.unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(count, device=device), :, down, right]
        if change.flip:
            mirrored = replicas.share(torch.rand(whole, device=device) < 0.5)
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if change.auto != "none":
            with replicas.own_random():
                pixels = _auto_augmented(pixels, change.auto)
        images = self._normalised(pixels)
        if change.erase:
            squares = _squares(whole, *images.shape[2:], side=change.erase, device=device)
            images.masked_fill_(replicas.share(squares), 0)
        if change.erased_share > 0:
            with replicas.own_random():
                _erase_rectangles(images, change.erased_share)
        return images

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Return images, uint8 [B, C, H, W], as the network takes them."""
        # A pixel's channels lie together, as convolutions want them.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        images = pixels.float().sub_(self._offset).mul_(self._scale)
        return images if self._enlarge is None else self._enlarge(images)

    def _crops(self, pixels: Tensor) -> Tensor:
        """Cut a random part out of each image [B, C, H, W], and bring it to the size that the network wants.

        Interpolated as for validation: a network takes images enlarged in another way for other images.
        """
        height, width = pixels.shape[2:]
        size = (height, width) if self._enlarge is None else (self._enlarge.side, self._enlarge.side)
        if pixels.device.type == "cuda":
            return random_regions.crops(pixels, self.augmentation.crop, size)
        from torchvision.transforms import v2  # takes a second to import, for photos only

        crop = v2.RandomResizedCrop(size, (self.augmentation.crop, 1.0), random_regions.CROP_ASPECTS, antialias=True)
        return torch.stack([crop(image) for image in pixels])


def _auto_augmented(pixels: Tensor, kind: AutoAugment) -> Tensor:
    """Change each uint8 image [B, C, H, W], grey or colour, by TrivialAugment or RandAugment.

    On two cores, 32 images of 128x128 pixels take 11 ms with TrivialAugment and 19 ms with RandAugment, in a training
    step of 570 ms (EfficientNet-Lite0).
    """
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    augment = (v2.TrivialAugmentWide if kind == "trivial" else v2.RandAugment)(interpolation=bilinear)
    return torch.stack([augment(image) for image in pixels])


def _erase_rectangles(images: Tensor, share: float) -> None:
    """Set a random rectangle to 0 in this share of the images [B, C, H, W], in place."""
    if images.device.type == "cuda":
        random_regions.erase(images, share)
        return
    from torchvision.transforms import v2

    erase = v2.RandomErasing(share, inplace=True)
    for image in images:
        erase(image)


def _squares(count: int, height: int, width: int, *, side: int, device: torch.device) -> Tensor:
    """Mask [count, 1, height, width] of one square each; its centre may lie anywhere, so that it may be cut off."""
    top = torch.randint(0, height, (count, 1), device=device) - side // 2
    left = torch.randint(0, width, (count, 1), device=device) - side // 2
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)

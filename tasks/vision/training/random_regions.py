"""Random rectangles of images on a GPU: crops that then fill the image, and erased ones, for a whole batch at a time.

The same as torchvision's RandomResizedCrop and RandomErasing, which take one image after another: on a GPU that is some
hundred kernels of a few pixels each, and the network waits for them. On a CPU, torchvision's are faster. Both are
measured in docs/benchmarks/transfer.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CROP_ASPECTS = (3 / 4, 4 / 3)
ERASED_AREA, ERASED_ASPECTS = (0.02, 0.33), (0.3, 3.3)
TRIES = 10  # to find a rectangle that fits; then it is cut off, as torchvision does


def crops(pixels: Tensor, smallest: float, size: tuple[int, int]) -> Tensor:
    """Cut a random part out of each image, and enlarge it, bilinearly, to `size`.

    Args:
        pixels: uint8 [B, C, H, W].
        smallest: smallest share of the area that is kept.
        size: height and width of the result, not smaller than those of the images: nothing is antialiased.

    Returns:
        uint8 [B, C, *size].
    """
    count, _, height, width = pixels.shape
    top, left, rows, columns = _rectangles(count, (height, width), (smallest, 1.0), CROP_ASPECTS, pixels.device)
    down, right = _positions(top, rows, size[0], height), _positions(left, columns, size[1], width)
    grid = torch.stack([right.unsqueeze(1).expand(-1, *size), down.unsqueeze(2).expand(-1, *size)], dim=3)
    enlarged = functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return enlarged.round_().to(torch.uint8)


def erase(images: Tensor, share: float) -> None:
    """Set a random rectangle to 0 in this share of the images [B, C, H, W], in place."""
    count, _, height, width = images.shape
    erased = torch.rand(count, device=images.device) < share
    top, left, rows, columns = (
        side.unsqueeze(1) for side in _rectangles(count, (height, width), ERASED_AREA, ERASED_ASPECTS, images.device)
    )
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside_rows = (y >= top) & (y < top + rows) & erased.unsqueeze(1)
    inside_columns = (x >= left) & (x < left + columns)
    images.masked_fill_((inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1), 0)


def _rectangles(
    count: int, size: tuple[int, int], area: tuple[float, float], aspects: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw top, left, height and width, in whole pixels, of one rectangle for each image; each float32 [count]."""
    height, width = size
    areas = torch.empty(TRIES, count, device=device).uniform_(*area) * (height * width)
    ratios = torch.empty(TRIES, count, device=device).uniform_(*map(math.log, aspects)).exp()
    rows, columns = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    first = ((rows <= height) & (columns <= width)).int().argmax(0, keepdim=True)
    rows = rows.gather(0, first)[0].clamp(1, height)
    columns = columns.gather(0, first)[0].clamp(1, width)
    places = torch.rand(2, count, device=device)
    top = (places[0] * (height - rows + 1)).floor().clamp_max(height - rows)  # a product may be rounded up
    left = (places[1] * (width - columns + 1)).floor().clamp_max(width - columns)
    return top, left, rows, columns


def _positions(start: Tensor, length: Tensor, size: int, of: int) -> Tensor:
    """Return where `size` pixels of the result lie in a part of a side of `of` pixels, as grid_sample counts: -1 to 1.

    Nothing outside the part is seen: at its border the outermost pixel is repeated, as if it had been cut out.
    """
    start, length = start.unsqueeze(1), length.unsqueeze(1)
    inside = (torch.arange(size, device=start.device) + 0.5) * (length / size) - 0.5
    position = start + torch.minimum(inside.clamp_min(0), length - 1)
    return position * (2 / max(of - 1, 1)) - 1

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from tasks.vision.training import random_regions

COUNT = 200


def photos(height: int, width: int, channels: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (COUNT, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, (96, 96)), (20, 30, (20, 30)), (7, 5, (9, 9)), (1, 1, (4, 4))]
)
def test_crops_are_those_of_torchvision(
    height: int, width: int, size: tuple[int, int], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Tensor, ...]] = []
    original = random_regions._rectangles

    def remembering(*arguments: object) -> tuple[Tensor, ...]:
        drawn.append(original(*arguments))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(random_regions, "_rectangles", remembering)
    images = photos(height, width, channels)
    crops = random_regions.crops(images, 0.2, size)
    boxes = [[int(side) for side in box] for box in zip(*drawn[0], strict=True)]
    expected = [
        reference.resized_crop(image, *box, list(size), antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]
    assert crops.dtype == torch.uint8
    assert (crops.int() - torch.stack(expected).int()).abs().max() <= 1  # rounded in another way


def test_rectangles_lie_in_the_image_and_have_the_areas_and_aspects_asked_for() -> None:
    torch.manual_seed(0)
    top, left, rows, columns = random_regions._rectangles(10_000, (60, 80), (0.3, 0.5), (0.5, 2), torch.device("cpu"))
    assert min(side.min() for side in (top, left)) == 0
    assert (top + rows).max() == 60
    assert (left + columns).max() == 80
    for side in (top, left, rows, columns):
        assert torch.equal(side, side.round())
    share, aspect = rows * columns / 4800, columns / rows
    assert 0.29 < share.min() < share.max() < 0.51
    assert share.mean() == pytest.approx(0.4, abs=0.01)
    assert 0.48 < aspect.min() < 0.6 < 1.8 < aspect.max() < 2.1


def test_a_rectangle_that_cannot_fit_is_cut_off() -> None:
    torch.manual_seed(0)
    _, left, rows, columns = random_regions._rectangles(100, (2, 50), (0.9, 1.0), (0.75, 1.33), torch.device("cpu"))
    assert rows.unique().tolist() == [2]
    assert columns.min() >= 7
    assert (left + columns).max() <= 50


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_rectangle_is_erased_in_all_channels(share: float) -> None:
    images = photos(30, 40).float() + 1
    before = images.clone()
    random_regions.erase(images, share)
    erased = images == 0
    assert torch.equal(images[~erased], before[~erased])
    assert torch.equal(erased.all(1), erased.any(1))
    areas = erased[:, 0].float().mean((1, 2))
    if share == 0:
        assert areas.max() == 0
    else:
        assert 0.01 < areas.min() < 0.05 < 0.25 < areas.max() < 0.35
        assert all(len(mask.any(1).nonzero()) * len(mask.any(0).nonzero()) == mask.sum() for mask in erased[:, 0])

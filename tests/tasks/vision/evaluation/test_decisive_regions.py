from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.vision.evaluation.decisive_regions import AT_ONCE, decisive_regions
from tasks.vision.models.classifier import forward_of


class Spot(torch.nn.Module):
    """Answers by the brightness of the upper left eighth of each side: the brighter, the more of the second class."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        side = max(1, images.shape[2] // 8)
        bright = images[:, :, :side, :side].float().mean((1, 2, 3)) / 255
        return torch.stack([1 - bright, bright], 1)


class Constant(torch.nn.Module):
    """Answers the same to every image."""

    def __init__(self, answer: float = 0.5) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 2), self.answer)


def spots(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Black images that are white where `Spot` looks, and in the opposite corner."""
    images = np.zeros((count, *shape), np.uint8)
    side = max(1, shape[1] // 8)
    images[:, :, :side, :side] = images[:, :, -side:, -side:] = 255
    return images


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (3, 97, 97), (3, 24, 40), (3, 5, 5)])
def test_the_region_is_where_the_model_looks(shape: tuple[int, int, int]) -> None:
    images = spots(3, shape)
    heat = decisive_regions(forward_of(Spot()), images, np.array([1, 1, 1]), shape)
    assert heat.shape == (3, *shape[1:])
    assert heat.dtype == np.float32
    assert heat[:, 0, 0] == pytest.approx(1)
    assert not heat[:, -1, -1].any()
    assert (heat >= 0).all()
    assert (heat <= 1).all()
    assert np.array_equal(images, spots(3, shape))


@pytest.mark.parametrize("side", [1, 2])
def test_an_image_that_is_covered_whole_decided_whole(side: int) -> None:
    images = np.zeros((1, 1, side, side), np.uint8)
    images[:, :, 0, 0] = 255
    heat = decisive_regions(forward_of(Spot()), images, np.array([1]), (1, side, side))
    assert heat.tolist() == (np.ones((1, side, side)) * (side == 2)).tolist()  # a single pixel is its own mean


def test_each_image_is_explained_for_its_own_label() -> None:
    images = spots(2, (3, 32, 32))
    images[1] = 255 - images[1]
    heat = decisive_regions(forward_of(Spot()), images, np.array([1, 0]), (3, 32, 32))
    assert heat[:, 0, 0] == pytest.approx(1)
    # Covering what speaks for a class makes the other one more probable: no region decided for that one.
    assert not decisive_regions(forward_of(Spot()), images, np.array([0, 1]), (3, 32, 32)).any()


def test_it_is_the_same_every_time_and_beside_any_other_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    labels = np.array([1, 0, 1, 0])
    first, second = (decisive_regions(forward_of(Spot()), images, labels, (3, 32, 32)) for _ in range(2))
    assert np.array_equal(first, second)
    alone = decisive_regions(forward_of(Spot()), images[2:3], labels[2:3], (3, 32, 32))
    assert alone[0] == pytest.approx(first[2], abs=1e-6)


@pytest.mark.parametrize("answer", [0.5, float("nan")])
def test_a_model_that_does_not_look_has_no_region(answer: float) -> None:
    assert not decisive_regions(forward_of(Constant(answer)), spots(2, (1, 8, 8)), np.array([0, 1]), (1, 8, 8)).any()


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 64, 64)])
def test_a_model_of_another_size_and_colour_is_explained(shape: tuple[int, int, int]) -> None:
    heat = decisive_regions(forward_of(Spot()), spots(1, (3, 32, 32)), np.array([1]), shape)
    assert heat.shape == (1, 32, 32)
    assert heat[0, 0, 0] == pytest.approx(1)
    assert not heat[0, -8:, -8:].any()


def test_an_exported_program_is_explained() -> None:
    images = spots(2, (1, 8, 8))
    exported = torch.export.export(
        Spot(), (torch.from_numpy(images),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    assert decisive_regions(forward_of(exported), images, np.array([1, 1]), (1, 8, 8))[:, 0, 0] == pytest.approx(1)


def test_many_images_are_explained_a_few_at_a_time_and_each_as_alone() -> None:
    """50 photos at once took over a gigabyte, in a stage that classifies 32."""
    sizes, spot = [], forward_of(Spot())
    images, labels = spots(20, (3, 32, 32)), np.arange(20) % 2
    images[7:] //= 2

    def forward(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return spot(batch)

    found = decisive_regions(forward, images, labels, (3, 32, 32))
    assert max(sizes) == AT_ONCE
    for one in range(20):
        alone = decisive_regions(spot, images[one : one + 1], labels[one : one + 1], (3, 32, 32))
        np.testing.assert_array_equal(found[one], alone[0])


def test_without_images_there_are_no_regions() -> None:
    regions = decisive_regions(forward_of(Spot()), spots(0, (3, 8, 8)), np.zeros(0, np.int64), (3, 8, 8))
    assert regions.shape == (0, 8, 8)

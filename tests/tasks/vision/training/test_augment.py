from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training.augment import Augmentation, ImageTensor

CPU = torch.device("cpu")
COUNT, CHANNELS, HEIGHT, WIDTH = 40, 3, 6, 5
EVERY = torch.arange(COUNT)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (COUNT, CHANNELS, HEIGHT, WIDTH), dtype=np.uint8)


def tensor_of(augmentation: Augmentation | None, mean: float = 0.0) -> ImageTensor:
    """Statistics that make the normalised value of a pixel the pixel itself, so that it can be told apart."""
    labels = np.arange(COUNT, dtype=np.int64) % 7
    return ImageTensor(pixels(), labels, Preprocessing((mean,) * CHANNELS, (1 / 255,) * CHANNELS), CPU, augmentation)


def test_without_augmentation_a_batch_is_the_normalised_images_in_the_order_asked_for() -> None:
    data = ImageTensor(pixels(), np.arange(COUNT), Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), CPU)
    index = torch.tensor([3, 0, 39])
    images, labels = data.batch(index)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(images, (torch.from_numpy(pixels()[index]) / 255 - mean) / std)
    assert labels.tolist() == [3, 0, 39]
    assert len(data) == COUNT


def test_batches_are_float32_in_channels_last_memory() -> None:
    images, _ = tensor_of(Augmentation(shift=1, flip=True, erase=2)).batch(EVERY)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_images_are_not_copied() -> None:
    images = pixels()
    data = ImageTensor(
        images,
        np.zeros(COUNT, np.int64),
        Preprocessing((0.0,) * CHANNELS, (1.0,) * CHANNELS),
        CPU,
        Augmentation(shift=2),
    )
    before = data.batch(EVERY[:1])[0].sum()
    images[:] = 0
    assert before > 0 == data.batch(EVERY)[0].sum()


def test_every_shift_is_a_move_of_the_image_with_black_moving_in() -> None:
    torch.manual_seed(0)
    images, _ = tensor_of(Augmentation(shift=2)).batch(EVERY)
    moves = [move_of(original, image) for original, image in zip(pixels(), images, strict=True)]
    assert set(moves) <= {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert len(set(moves)) > 10


def move_of(original: np.ndarray, image: Tensor) -> tuple[int, int]:
    padded = np.pad(original, ((0, 0), (2, 2), (2, 2)))
    for down in range(5):
        for right in range(5):
            if np.array_equal(padded[:, down : down + HEIGHT, right : right + WIDTH], image.numpy().round()):
                return down - 2, right - 2
    raise AssertionError("the image is no shift of the original")


def test_about_half_of_the_images_are_mirrored_and_the_rest_left_alone() -> None:
    torch.manual_seed(0)
    images, _ = tensor_of(Augmentation(flip=True)).batch(EVERY)
    originals = torch.from_numpy(pixels()).float()
    same = (images.round() == originals).flatten(1).all(1)
    mirrored = (images.round() == originals.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 10 < mirrored.sum() < 30


def test_erasing_sets_one_square_to_the_mean_colour() -> None:
    torch.manual_seed(0)
    images, _ = tensor_of(Augmentation(erase=2), mean=-1.0).batch(EVERY)  # no pixel is 0 by itself
    erased = (images == 0).all(1)
    assert torch.equal(erased, (images == 0).any(1))
    assert erased.flatten(1).sum(1).max() == 4
    assert (erased.flatten(1).sum(1) > 0).all()
    for mask in erased:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert (
            mask.sum()
            == len(rows) * len(columns)
            == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        )


def test_the_same_seed_gives_the_same_batch_and_another_seed_another() -> None:
    data = tensor_of(Augmentation(shift=2, flip=True, erase=2))
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append(data.batch(EVERY)[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize(
    ("strength", "side", "expected"),
    [
        (0.0, 32, Augmentation(shift=0, flip=False, erase=0)),
        (0.5, 32, Augmentation(shift=4, flip=True, erase=8)),
        (1.0, 32, Augmentation(shift=8, flip=True, erase=16)),
        (0.5, 8, Augmentation(shift=1, flip=True, erase=2)),
    ],
)
def test_strength_scales_with_the_images_side(strength: float, side: int, expected: Augmentation) -> None:
    assert Augmentation.of(strength, True, side) == expected


def test_images_are_not_mirrored_where_that_is_not_wanted() -> None:
    assert not Augmentation.of(1.0, False, 32).flip

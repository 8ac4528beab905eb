from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from tasks.contract.recipe import Recipe
from tasks.vision.models.classifier import Enlargement
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


def of(strength: float, flip: bool = True, side: int = 32, **recipe: object) -> Augmentation:
    return Augmentation.of(Recipe.model_validate({"augmentation": strength} | recipe), flip, side)


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
    assert of(strength, side=side) == expected


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.0, Augmentation()),
        (0.5, Augmentation(flip=True, crop=0.6, erased_share=0.25)),
        (1.0, Augmentation(flip=True, crop=pytest.approx(0.2), erased_share=0.5)),
    ],
)
def test_fine_tuning_crops_and_erases_with_the_same_strength(strength: float, expected: Augmentation) -> None:
    assert of(strength, finetune="full") == expected


def test_images_are_not_mirrored_where_that_is_not_wanted() -> None:
    assert not of(1.0, flip=False).flip


@pytest.mark.parametrize("finetune", ["scratch", "full"])
def test_automatic_augmentation_does_not_depend_on_the_strength(finetune: str) -> None:
    assert of(0.0, finetune=finetune, auto_augment="trivial") == Augmentation(auto="trivial")


def test_new_kinds_that_are_off_draw_no_random_numbers() -> None:
    """Trainings of earlier releases repeat: shifts, flips and squares, drawn in this order, are all there is."""
    torch.manual_seed(0)
    tensor_of(Augmentation(shift=2, flip=True, erase=2)).batch(EVERY)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(0, 5, (2, COUNT)), torch.rand(COUNT)
    torch.randint(0, HEIGHT, (COUNT, 1)), torch.randint(0, WIDTH, (COUNT, 1))
    assert torch.equal(torch.get_rng_state(), state)


KINDS = {
    "trivial": Augmentation(auto="trivial"),
    "rand": Augmentation(auto="rand"),
    "crop": Augmentation(crop=0.3),
    "rectangles": Augmentation(erased_share=1.0),
    "all": Augmentation(shift=2, flip=True, erase=3, crop=0.5, erased_share=0.5, auto="trivial"),
}


@pytest.mark.parametrize("enlarge", [None, Enlargement(24)], ids=["as it is", "enlarged"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_grey_and_colour_images_and_repeats_with_its_seed(
    kind: str, channels: int, enlarge: Enlargement | None
) -> None:
    photos = np.random.default_rng(1).integers(0, 256, (COUNT, channels, 20, 16), dtype=np.uint8)
    preprocessing = Preprocessing((0.4,) * channels, (0.2,) * channels, enlarge)
    data = ImageTensor(photos.copy(), np.arange(COUNT), preprocessing, CPU, KINDS[kind])
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append(data.batch(EVERY)[0])
    side = (20, 16) if enlarge is None else (24, 24)
    assert batches[0].shape == (COUNT, channels, *side)
    assert batches[0].dtype == torch.float32
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    assert batches[0].isfinite().all()
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    plain = next(data.batches(COUNT))[0]
    assert (batches[0] != plain).flatten(1).any(1).sum() > COUNT / 3
    torch.testing.assert_close(plain, ImageTensor(photos, np.arange(COUNT), preprocessing, CPU).batch(EVERY)[0])


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", [v2.TrivialAugmentWide, v2.RandAugment])
def test_every_operation_of_torchvisions_spaces_takes_uint8_in_grey_and_colour(
    kind: type[v2.RandAugment], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = torch.randint(0, 256, (channels, 20, 16), dtype=torch.uint8)
    for name in kind._AUGMENTATION_SPACE:
        monkeypatch.setattr(kind, "_get_random_item", lambda self, space, name=name: (name, space[name]))
        changed = kind()(photo)
        assert (changed.shape, changed.dtype) == (photo.shape, torch.uint8), name


def test_a_rectangle_of_the_mean_colour_lies_in_the_share_asked_for() -> None:
    torch.manual_seed(0)
    photos = np.full((400, 3, 30, 30), 200, np.uint8)
    preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3)
    data = ImageTensor(photos, np.zeros(400, np.int64), preprocessing, CPU, Augmentation(erased_share=0.25))
    erased = (data.batch(torch.arange(400))[0] == 0).all(1)
    assert 70 < erased.flatten(1).any(1).sum() < 130
    assert erased.float().mean((1, 2)).max() < 0.4
    assert (photos == 200).all()

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tasks.vision.training.mixing import make_mixing

CLASSES = 4
LABELS = torch.arange(8) % CLASSES


def images(channels: int = 3) -> Tensor:
    """Each image is of one colour, so that a pixel tells which image it comes from."""
    return torch.arange(8.0).view(8, 1, 1, 1).expand(8, channels, 16, 12).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 1e-300])
def test_alpha_zero_or_next_to_it_changes_nothing_and_draws_no_random_number(alpha: float) -> None:
    torch.manual_seed(0)
    before, batch = torch.get_rng_state(), images()
    mixed, labels = make_mixing(alpha, alpha, CLASSES)(batch, LABELS)
    assert mixed is batch
    assert labels is LABELS
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)], ids=["mixup", "cutmix", "both"])
def test_labels_are_mixed_in_the_proportion_of_the_pixels(mixup: float, cutmix: float, channels: int) -> None:
    torch.manual_seed(3)
    mix = make_mixing(mixup, cutmix, CLASSES)
    for _ in range(10):
        mixed, labels = mix(images(channels), LABELS)
        assert labels.shape == (8, CLASSES)
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        # Image 1 is mixed with image 0, whose pixels are 0: the mean of its pixels is its share.
        torch.testing.assert_close(mixed[1].mean(), labels[1, 1])
        torch.testing.assert_close(1 - mixed[1].mean(), labels[1, 0])


def test_mixup_blends_and_cutmix_pastes() -> None:
    torch.manual_seed(1)
    blended, _ = make_mixing(1.0, 0.0, CLASSES)(images(), LABELS)
    assert len(blended[1].unique()) == 1
    pasted, _ = make_mixing(0.0, 1.0, CLASSES)(images(), LABELS)
    assert pasted[1].unique().tolist() == [0, 1]


def test_with_both_each_batch_gets_one_of_the_two() -> None:
    torch.manual_seed(0)
    mix = make_mixing(1.0, 1.0, CLASSES)
    kinds = ["mixup" if len(mix(images(), LABELS)[0][1].unique()) == 1 else "cutmix" for _ in range(40)]
    assert 8 < kinds.count("mixup") < 32

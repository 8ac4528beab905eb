from __future__ import annotations

import pytest
import torch

from tasks.contract.networks import Normalisation
from tasks.errors import DataError
from tasks.vision.models.preprocessing import Preprocessing

STATISTICS = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
GREY = Normalisation((0.1,), (0.4,))


def test_random_weights_get_the_statistics_of_the_training_images() -> None:
    for architecture in ("fast_cnn", "efficientnet_lite0"):
        prepared = Preprocessing.of(architecture, (3, 32, 32), STATISTICS)
        assert (prepared.mean, prepared.std, prepared.enlarge) == (STATISTICS.mean, STATISTICS.std, None)


def test_timms_weights_get_what_they_were_trained_with() -> None:
    prepared = Preprocessing.of("resnet50.a1_in1k", (3, 64, 64), STATISTICS, {})
    assert prepared.mean == (0.485, 0.456, 0.406)
    grey = Preprocessing.of("resnet50.a1_in1k", (1, 64, 64), GREY, {})
    assert grey.mean == (pytest.approx(0.449),)


def test_weights_of_our_own_models_bring_their_normalisation() -> None:
    trained = {"mean": torch.full((1, 3, 1, 1), 0.25), "std": torch.full((1, 3, 1, 1), 0.5)}
    prepared = Preprocessing.of("fast_cnn", (3, 32, 32), STATISTICS, trained)
    assert (prepared.mean, prepared.std) == ((0.25,) * 3, (0.5,) * 3)
    assert Preprocessing.of("fast_cnn", (1, 32, 32), GREY, trained).mean == GREY.mean


def test_smaller_images_are_enlarged_and_larger_ones_refused() -> None:
    prepared = Preprocessing.of("efficientnet_lite0", (3, 32, 32), STATISTICS, side=96)
    assert prepared.enlarge is not None
    assert prepared.enlarge.side == 96
    assert prepared.enlarge(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 96, 96)
    assert Preprocessing.of("efficientnet_lite0", (3, 96, 96), STATISTICS, side=96).enlarge is None
    with pytest.raises(DataError, match=r"input_side=64 is smaller than the images, 96x96; set image_size=64"):
        Preprocessing.of("efficientnet_lite0", (3, 96, 96), STATISTICS, side=64)

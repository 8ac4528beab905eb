from __future__ import annotations

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from tasks.contract.recipe import Architecture
from tasks.errors import DataError, RequestError
from tasks.vision.models.networks import Classifier, build, digest, parameter_counts


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_network_learns_from_every_image_size(architecture: str, shape: tuple[int, int, int]) -> None:
    network = build(architecture, 5, shape)
    logits = network(torch.randn(2, *shape))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize(("side", "stride"), [(64, 1), (65, 2)])
def test_first_convolution_keeps_the_resolution_of_small_images(architecture: str, side: int, stride: int) -> None:
    network = build(architecture, 2, (1, side, side))
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 1
    assert first.stride == (stride, stride)


def test_resnet18_pools_after_its_stem_on_large_images_only() -> None:
    assert isinstance(build("resnet18", 2, (3, 32, 32)).get_submodule("maxpool"), nn.Identity)
    assert isinstance(build("resnet18", 2, (3, 96, 96)).get_submodule("maxpool"), nn.MaxPool2d)


def test_unknown_network_is_named_with_those_that_there_are() -> None:
    with pytest.raises(RequestError, match=r"model='vgg' is unknown; choose one of fast_cnn, mobilenet_v3_small"):
        build("vgg", 2, (1, 8, 8))


def test_one_class_and_tiny_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2"):
        build("fast_cnn", 1, (1, 8, 8))
    with pytest.raises(DataError, match=r"8x7 pixels are too small; set image_size to 8"):
        build("fast_cnn", 2, (1, 8, 7))


def test_classifier_normalises_pixels_and_returns_probabilities() -> None:
    network = build("fast_cnn", 4, (3, 16, 16)).eval()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    probabilities = Classifier(network, mean, std).eval()(pixels)
    by_hand = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, network(by_hand).softmax(1))


def test_digest_sees_one_changed_weight_a_dtype_and_another_shape_of_the_same_bytes() -> None:
    model = nn.Linear(2, 3, bias=False)
    same, changed, reshaped = copy.deepcopy(model), copy.deepcopy(model), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        changed.weight[0, 0] += 1e-6
        reshaped.weight.copy_(model.weight.reshape(2, 3))
    others = {digest(changed), digest(reshaped), digest(copy.deepcopy(model).double())}
    assert digest(model) == digest(same)
    assert len(others | {digest(model)}) == 4


def test_digest_does_not_depend_on_memory_layout() -> None:
    network = build("fast_cnn", 2, (3, 8, 8))
    expected = digest(network)
    assert digest(network.to(memory_format=torch.channels_last)) == expected


def test_exported_classifier_has_the_same_digest_and_answers_for_any_batch_size(tmp_path: Path) -> None:
    model = Classifier(build("fast_cnn", 3, (1, 8, 8)), [0.3], [0.2]).eval()
    example = (torch.zeros(4, 1, 8, 8, dtype=torch.uint8),)
    exported = torch.export.export(model, example, dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert digest(loaded) == digest(model)
    for count in (1, 7, 256):
        pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(loaded(pixels), model(pixels))


def test_parameters_are_counted_by_whether_they_learn() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    assert parameter_counts(model) == {"total": 13, "trainable": 4, "frozen": 9}

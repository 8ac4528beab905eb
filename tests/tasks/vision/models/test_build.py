from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tasks
from tasks.contract.networks import NETWORKS, Network
from tasks.errors import DataError, RequestError
from tasks.reuse.code_digest import closure
from tasks.vision.models.build import build

OWN_STEM = [name for name, network in NETWORKS.items() if network.family != "timm"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("architecture", OWN_STEM)
def test_every_network_learns_from_every_image_size(architecture: str, shape: tuple[int, int, int]) -> None:
    network = build(architecture, 5, shape)
    logits = network(torch.randn(2, *shape))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("architecture", OWN_STEM)
@pytest.mark.parametrize(("side", "stride"), [(64, 1), (65, 2)])
def test_first_convolution_keeps_the_resolution_of_small_images(architecture: str, side: int, stride: int) -> None:
    network = build(architecture, 2, (1, side, side))
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 1
    assert first.stride == (stride, stride)


def test_resnet18_pools_after_its_stem_on_large_images_only() -> None:
    assert isinstance(build("resnet18", 2, (3, 32, 32)).get_submodule("maxpool"), nn.Identity)
    assert isinstance(build("resnet18", 2, (3, 96, 96)).get_submodule("maxpool"), nn.MaxPool2d)


def test_an_unknown_network_is_named_with_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"model='resnet_18': unknown; did you mean resnet18 .*choose one of fast_cnn"
    ):
        build("resnet_18", 2, (1, 8, 8))


def test_one_class_and_tiny_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 classes, not 1"):
        build("fast_cnn", 1, (1, 8, 8))
    with pytest.raises(DataError, match=r"8x7 pixels are too small for fast_cnn; set image_size to 8 or more"):
        build("fast_cnn", 2, (1, 8, 7))


@pytest.mark.parametrize(
    ("entry", "submodule"),
    [
        (Network("deeper", "resnet", "resnet34"), "layer3.5.conv2"),
        (Network("lighter", "mobilenet", "mobilenet_v2"), "features.17.conv.3"),
        (Network("newer", "mobilenet", "efficientnet_b0"), "features.7.0.block.3.1"),
    ],
    ids=lambda value: getattr(value, "constructor", ""),
)
def test_an_entry_is_all_that_another_network_of_a_family_needs(
    entry: Network, submodule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "new", entry)
    network = build("new", 3, (1, 32, 32)).eval()
    assert network.get_submodule(submodule) is not None
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert (first.in_channels, first.stride) == (1, (1, 1))
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_the_smallest_side_is_of_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "new", Network("for photos", "resnet", "resnet18", smallest_side=32))
    with pytest.raises(DataError, match="31x40 pixels are too small for new; set image_size to 32 or more"):
        build("new", 2, (3, 31, 40))


def test_the_code_of_every_family_is_part_of_what_a_training_depends_on() -> None:
    package = Path(tasks.__file__).parent
    files, _ = closure("tasks.stages.train", package)
    assert {
        package / "vision/models" / name for name in ("fast_cnn.py", "timm_networks.py", "torchvision_networks.py")
    } <= files

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tasks.contract.networks import NETWORKS
from tasks.vision.models.build import build
from tasks.vision.models.classifier import digest
from tasks.vision.training.kernels import DepthwiseConv2d, MeanPool2d, PointwiseConv2d, optimize_for_cpu


def gradients(module: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input and of every parameter, in float64."""
    module, images = module.double().train(), images.double().requires_grad_(True)
    torch.manual_seed(1)  # for dropout
    output = module(images)
    (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).cos()).sum().backward()
    assert images.grad is not None
    return [output.detach(), images.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (2, 5), (4, 4), (7, 6), (8, 8), (16, 16)], ids=str)
def test_depthwise_has_the_gradients_of_the_ordinary_convolution(
    kernel: int, stride: int, size: tuple[int, int]
) -> None:
    plain = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    quick = optimize_for_cpu(nn.Sequential(copy.deepcopy(plain)))
    assert isinstance(quick[0], DepthwiseConv2d)  # type: ignore[index]
    images = torch.randn(3, 6, *size).to(memory_format=torch.channels_last)
    for ours, expected in zip(gradients(quick, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_has_the_gradients_of_the_ordinary_convolution(bias: bool) -> None:
    plain = nn.Conv2d(6, 5, 1, bias=bias)
    quick = optimize_for_cpu(nn.Sequential(copy.deepcopy(plain)))
    assert isinstance(quick[0], PointwiseConv2d)  # type: ignore[index]
    for images in (torch.randn(3, 6, 4, 2), torch.randn(3, 6, 4, 2).to(memory_format=torch.channels_last)):
        for ours, expected in zip(
            gradients(copy.deepcopy(quick), images), gradients(copy.deepcopy(plain), images), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_convolutions_of_other_forms_stay_as_they_are() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4, bias=False),
        nn.AdaptiveAvgPool2d(2),
    )
    assert [type(m) for m in optimize_for_cpu(network)] == [*[nn.Conv2d] * 7, nn.AdaptiveAvgPool2d]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        *((name, side) for name, network in NETWORKS.items() if network.family != "timm" for side in (8, 32, 65)),
        ("efficientnet_lite0", 65),
    ],
)
def test_every_network_has_the_same_state_outputs_and_gradients(architecture: str, side: int) -> None:
    torch.manual_seed(0)
    plain = build(architecture, 3, (3, side, side)).to(memory_format=torch.channels_last)
    quick = optimize_for_cpu(copy.deepcopy(plain))
    assert digest(quick) == digest(plain)
    images = torch.randn(4, 3, side, side).to(memory_format=torch.channels_last)
    assert torch.equal(quick.eval()(images), plain.eval()(images))
    expected = gradients(plain, images)
    # Of the whole network: biases before a normalisation have gradients of rounding errors only.
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for ours, theirs in zip(gradients(quick, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * largest)


def test_mobilenet_has_all_of_them_and_a_gradient_has_the_same_bits_every_time() -> None:
    torch.manual_seed(0)
    network = (
        optimize_for_cpu(build("mobilenet_v3_small", 3, (3, 32, 32))).to(memory_format=torch.channels_last).train()
    )
    assert {PointwiseConv2d, DepthwiseConv2d, MeanPool2d} <= {type(module) for module in network.modules()}
    images, seen = torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last), []
    for _ in range(2):
        torch.manual_seed(1)
        network.zero_grad()
        network(images).square().sum().backward()
        seen.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))

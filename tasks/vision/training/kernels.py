"""Convolutions with cheaper gradients on a CPU: the same weights and the same function, computed in another way.

On 32-pixel images most maps inside MobileNetV3 are 4x4 or 2x2 positions, for which the CPU's convolution kernels were
not made: the weight gradient of one depthwise layer takes 5 ms there, its output 0.1 ms. Here that gradient comes from
matrix products, and 1x1 convolutions are matrix products altogether. What each saves is in docs/benchmarks/training.md.

Only gradients differ, and these only by rounding. Modules in evaluation mode compute what they always did.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

# Up to so many pairs of an input and an output position, products are faster than the kernel: for 5x5 weights, 120
# channels of 8x8 (4,096 products) took 4.8 ms instead of 8.7, 40 channels of 12x12 (20,736) 6.2 instead of 5.4.
MOST_PAIRS = 4096
# Up to so many output positions, each is a pass over the input, which needs no transposing.
FEW_POSITIONS = 4


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution as one product of a [positions, channels] matrix with the weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, out_channels, H, W] in channels_last layout, in which the input should be."""
        if not self.training:
            return super().forward(input)
        return functional.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel with a kernel of its own; its weight gradient is fast on small maps."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, channels, H', W'] for [N, channels, H, W], both best in channels_last layout."""
        if not (self.training and self._slow_gradient(*input.shape[2:])):
            return super().forward(input)
        stride, padding = self.stride[0], int(self.padding[0])
        output: Tensor = _Depthwise.apply(input, self.weight, stride, padding)
        return output

    def _slow_gradient(self, height: int, width: int) -> bool:
        kernel = self.kernel_size[0]
        pairs = height * width * -(-height // self.stride[0]) * -(-width // self.stride[0])
        return pairs <= MOST_PAIRS and (kernel > 3 or min(height, width) < kernel)


class MeanPool2d(nn.AdaptiveAvgPool2d):
    """The mean of each channel; its gradient stays a view of one value per channel until it is added to another."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, C, 1, 1] for [N, C, H, W]."""
        if not self.training:
            return super().forward(input)
        return input.sum((2, 3), keepdim=True) * (1 / input.shape[2:].numel())


def optimize_for_cpu(network: nn.Module) -> nn.Module:
    """Make `network` train faster on a CPU in float32; return it.

    Modules get another class and keep everything else, so that names, weights and the state dict stay as they are.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and module.dilation == (1, 1):
            kernel, stride = module.kernel_size[0], module.stride[0]
            square = module.kernel_size == (kernel, kernel) and module.stride == (stride, stride) and kernel % 2 == 1
            same = square and module.padding == (kernel // 2, kernel // 2)
            if same and kernel == stride == module.groups == 1:
                module.__class__ = PointwiseConv2d
            elif same and module.groups == module.in_channels == module.out_channels and module.bias is None:
                module.__class__ = DepthwiseConv2d
        elif type(module) is nn.AdaptiveAvgPool2d and module.output_size == 1:
            module.__class__ = MeanPool2d
        elif isinstance(module, nn.Hardswish):
            module.inplace = False  # in place, it would first copy its input for the gradient
    return network


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution with square kernel, stride and padding, without bias."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        (gradient,), stride, padding = gradients, ctx.stride, ctx.padding
        for_images = for_weight = None
        if ctx.needs_input_grad[0]:
            for_images = conv2d_input(  # type: ignore[no-untyped-call]
                images.shape, weight, gradient, stride, padding, groups=len(weight)
            )
        if ctx.needs_input_grad[1]:
            connections = _connections(*images.shape[2:], weight.shape[2], stride, padding).to(images)
            for_weight = (connections @ _pair_sums(images, gradient)).t().reshape(weight.shape)
        return for_images, for_weight, None, None


def _pair_sums(images: Tensor, gradient: Tensor) -> Tensor:
    """Sum, over the batch, images [N, C, H, W] times gradient [N, C, H', W'] for every pair of positions.

    Returns [H' * W' * H * W, C].
    """
    count, channels = images.shape[:2]
    inputs = images.permute(0, 2, 3, 1).reshape(count, -1, channels)
    outputs = gradient.permute(0, 2, 3, 1).reshape(count, -1, channels)
    if outputs.shape[1] <= FEW_POSITIONS:
        return torch.cat([(inputs * output.unsqueeze(1)).sum(0) for output in outputs.unbind(1)])
    by_channel = [
        positions.reshape(-1, channels).t().contiguous().view(channels, count, -1) for positions in (outputs, inputs)
    ]
    return torch.bmm(by_channel[0].transpose(1, 2), by_channel[1]).flatten(1).t()


@lru_cache
def _connections(height: int, width: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Return which weight connects which pair of positions: [kernel * kernel, H' * W' * H * W] of zeros and ones.

    A pair that no weight connects, because it is too far apart, has zeros only.
    """
    # A kernel with a one in a single place, over an image with a one in a single place, gives a one where they meet.
    places = torch.eye(height * width).view(-1, 1, height, width)
    weights = torch.eye(kernel * kernel).view(-1, 1, kernel, kernel)
    return functional.conv2d(places, weights, None, stride, padding).permute(1, 2, 3, 0).flatten(1)

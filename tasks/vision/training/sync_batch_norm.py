"""Batch normalisation over the whole batch, where several replicas have a share of it each.

torch's own SyncBatchNorm works on GPUs only. Modules get another class and keep everything else, so that names, weights
and the state dict stay as they are; in evaluation mode they compute what they always did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Normalises with mean and variance of all replicas' images."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, C, H, W] for [N, C, H, W]."""
        return _normalised(self, input) if self.training else super().forward(input)


def synchronize(network: nn.Module) -> None:
    """Have the batch normalisation of `network` use the statistics of all replicas, in place."""
    for module in network.modules():
        if not isinstance(module, nn.BatchNorm2d) or module.momentum is None or not module.track_running_stats:
            continue
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
        elif type(module).__name__ == "BatchNormAct2d":  # of timm, which takes a second to import
            module.__class__ = _synced_with_activation(type(module))


def _synced_with_activation(timm_class: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    class SyncedBatchNormAct2d(timm_class):  # type: ignore[misc, valid-type]
        """The same, followed by the activation that the module holds."""

        def forward(self, input: Tensor) -> Tensor:
            if not self.training:
                evaluated: Tensor = super().forward(input)
                return evaluated
            activated: Tensor = self.act(self.drop(_normalised(self, input)))
            return activated

    return SyncedBatchNormAct2d


def _normalised(module: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """Normalise [N, C, H, W] as `module` says, and update its running statistics; every replica calls it at once."""
    mean, var, momentum = module.running_mean, module.running_var, module.momentum
    assert mean is not None and var is not None  # noqa: S101, PT018  # others are left alone
    assert momentum is not None  # noqa: S101
    # Relative to the running mean, which all replicas share: the difference of two large sums would lose digits.
    values = images.float() - mean.view(1, -1, 1, 1)
    own = torch.stack([values.sum((0, 2, 3)), (values * values).sum((0, 2, 3))])
    count = values.new_full((1,), values.numel() / values.shape[1])
    distributed.all_reduce(count)
    total: Tensor = _Sum.apply(own)
    shift, squares = total.div(count).unbind()
    spread = (squares - shift * shift).clamp_min(0)
    with torch.no_grad():
        var.lerp_(spread * count / (count - 1), momentum)
        mean.add_(shift, alpha=momentum)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
    scale = torch.rsqrt(spread + module.eps)
    offset = -shift * scale
    if module.affine:
        scale, offset = scale * module.weight, offset * module.weight + module.bias
    normalised: Tensor = values * scale.view(1, -1, 1, 1) + offset.view(1, -1, 1, 1)
    return normalised.to(images.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all replicas; what each of them does with it adds to the gradient of all."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        distributed.all_reduce(gradient)
        return gradient

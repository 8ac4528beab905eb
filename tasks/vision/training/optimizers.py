"""Optimisers for all weights of a network, and the running average of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tasks.contract.recipe import Recipe


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, or AdamW, as the recipe says.

    Biases and the scales of normalisation (parameters of one dimension) get no weight decay: shrinking them does not
    regularise, it only costs accuracy (He et al., arXiv:1812.01187, section 3.1).
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One fused kernel for all parameters: MobileNetV3 has 142, and a loop over them costs more than the arithmetic.
    fused = trainable[0].device.type in {"cpu", "cuda"}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=fused)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class WeightAverage:
    """Exponential moving average of a network's weights and normalisation statistics.

    The decay grows as (1 + step) / (10 + step) up to `decay`: without that, the average of a short training
    would consist mostly of its first, random weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start with a copy of `network`."""
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards `network`, as it is after `step` steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, currents = self._floats(self.network), self._floats(network)
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in zip(self.network.buffers(), network.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(current)

    @staticmethod
    def _floats(network: nn.Module) -> list[Tensor]:
        return [t.detach() for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]

"""Optimisers for all weights of a network, and the running average of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contract.recipe import Recipe

BLOCK = 2  # parts of a parameter's name that say in which block it is: `features.3`, `layer1.0`
SCALE = "lr_scale"  # of a parameter group: its share of the learning rate


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, or AdamW, as the recipe says.

    Biases and the scales of normalisation (parameters of one dimension) get no weight decay: shrinking them does not
    regularise, it only costs accuracy (He et al., arXiv:1812.01187, section 3.1).

    With a layer decay below 1, the learning rate falls from each block to the one before it (Howard and Ruder,
    arXiv:1801.06146, section 3.2): the first blocks of a trained network know edges and colours, and change least.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = list(_groups(network, recipe))
    # One fused kernel for all parameters: MobileNetV3 has 142, and a loop over them costs more than the arithmetic.
    fused = trainable[0].device.type in {"cpu", "cuda"}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=fused)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused
    )


def _groups(network: nn.Module, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Parameters by block, and those with weight decay apart from those without."""
    blocks = _blocks(network) if recipe.layer_decay < 1 else [list(network.parameters())]
    for distance, block in enumerate(reversed(blocks)):
        trainable = [p for p in block if p.requires_grad]
        scale = recipe.layer_decay**distance
        for decay, params in (
            (recipe.weight_decay, [p for p in trainable if p.ndim >= 2]),
            (0.0, [p for p in trainable if p.ndim < 2]),
        ):
            if params:
                yield {"params": params, "weight_decay": decay, SCALE: scale}


def _blocks(network: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters by block, in the order in which images pass through them."""
    named = itertools.groupby(network.named_parameters(), lambda item: tuple(item[0].split(".")[:-1][:BLOCK]))
    return [[parameter for _, parameter in block] for _, block in named]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[SCALE]


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

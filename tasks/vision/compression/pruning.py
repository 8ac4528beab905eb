"""Structured pruning: take whole channels out of a trained network, until a share of its arithmetic is gone.

A channel matters as much as the answers change, to first order, if every layer that reads it gets zeros: the square of
the sum of value times gradient, over all positions and all layers that read it. Those that matter least for the
multiplications they cost go first, a few at a time (group Fisher pruning, Liu et al. 2021). The gradients are those of
random sums of the logits: no labels are needed, and a network that knows all its images by heart has gradients too.

Why this way: docs/decisions/0027-structured-pruning.md. What is left answers worse until it is trained a little more.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.errors import DataError, ModelError, RequestError
from tasks.vision.compression import channels
from tasks.vision.compression.channels import Channels, Coupled, Place
from tasks.vision.models.classifier import Classifier

log = logging.getLogger(__name__)

MULTIPLE = 8  # what is left of the channels of a layer: processors take so many at once
FEWEST = 1 / 8  # of the channels of a layer always stay: with none left, no image would get through
BATCH = 32  # images per pass: bounds the memory that the activations of all layers take
SUMS = 4  # of logits, for each image
TOLERANCE = 1e-3  # of the largest logit: what rounding may change


@dataclass(frozen=True)
class Pruned:
    """A network with fewer channels.

    Attributes:
        classifier: in evaluation mode, on the CPU; it shares no tensor with the one that it was made from.
        operations: multiplications of its convolutions and linear layers, for one image.
        operations_before: the same of the one that it was made from.
    """

    classifier: Classifier
    operations: int
    operations_before: int


def prune(classifier: Classifier, images: NDArray[np.uint8], share: float, multiple: int = MULTIPLE) -> Pruned:
    """Remove the channels that matter least from a classifier, which itself stays as it is.

    The same classifier, images and share give the same tensors, on the same processor with as many threads. Elsewhere
    rounding may choose another channel: build a network for stored weights with `with_weights`, not by pruning again.

    Args:
        classifier: a trained one, on the CPU.
        images: uint8 [N, C, H, W], by which channels are judged; some hundreds of training images.
        share: of the multiplications, how much to remove at least, between 0 and 1.
        multiple: what the number of channels left is a multiple of.

    Raises:
        RequestError: the share is not between 0 and 1.
        DataError: there is no image.
        ModelError: so much cannot be removed from this network, or it does not work with fewer channels.
    """
    if not 0 < share < 1:
        raise RequestError(f"share={share}: it is the part of the multiplications to remove, more than 0, less than 1")
    if not len(images):
        raise DataError("there is no image by which channels could be judged; give some hundreds of training images")
    pruned = copy.deepcopy(classifier).eval().requires_grad_(True)
    with torch.no_grad():
        inputs = pruned.prepare(torch.from_numpy(np.ascontiguousarray(images)))
    found = _find(pruned.network, inputs)
    sizes = {name: list(pruned.network.get_parameter(name).shape) for name in found.uses}
    before = sum(uses * math.prod(sizes[name]) for name, uses in found.uses.items())
    ranked = [importance.sort(stable=True) for importance in _importance(pruned.network, found, inputs)]
    steps = _Steps(found, [ascending.values.tolist() for ascending in ranked], sizes, multiple)
    after = steps.take(before, before * (1 - share))
    removed = [ascending.indices[:count] for ascending, count in zip(ranked, steps.removed, strict=True)]
    _remove(pruned.network, found.removable, removed, inputs[:2])
    log.info("removed %d of %d channels", sum(map(len, removed)), sum(map(len, found.removable)))
    return Pruned(pruned, after, before)


def with_weights(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a network other weights, of which some have fewer channels; return it.

    Args:
        network: the network before it was pruned.
        state: the state dict of a pruned one; its tensors are copied.

    Raises:
        ModelError: they are not those of this network.
    """
    own = network.state_dict(keep_vars=True)
    if own.keys() != state.keys() or any(value.ndim != state[name].ndim for name, value in own.items()):
        raise ModelError("the weights are those of another network; prune the one that they were made from")
    for name, value in own.items():
        path, _, key = name.rpartition(".")
        new = state[name].detach().to(value.device, copy=True, memory_format=torch.contiguous_format)
        module = network.get_submodule(path)
        setattr(module, key, nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs, inputs = module.weight.shape[:2]
            if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
                module.groups = outputs
            module.in_channels, module.out_channels = inputs * module.groups, outputs
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
    return network


def _find(network: nn.Module, inputs: Tensor) -> Channels:
    try:
        found = channels.find(network, (inputs.shape[1], inputs.shape[2], inputs.shape[3]))
    except Exception as error:  # torch.export has many classes of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"this network cannot be pruned, for torch.export cannot read it: {reason[:200]}") from error
    if not found.removable:
        raise ModelError("no channel of this network can be removed; compress it by another method")
    return found


def _importance(network: nn.Module, found: Channels, inputs: Tensor) -> list[Tensor]:
    """Return how much each channel matters, float64, for each entry of `found.removable`."""
    lengths = [len(coupled) for coupled in found.removable]
    total = sum(lengths)
    numbers = torch.split(torch.arange(total), lengths)
    readers: dict[str, Tensor] = {}  # for each weight, the number of each channel that it reads; `total`: it stays
    for coupled, own in zip(found.removable, numbers, strict=True):
        for place, positions in coupled.positions.items():
            if place.dimension == 1:
                width = network.get_parameter(place.tensor).shape[1]
                read = readers.setdefault(place.tensor, torch.full((width,), total))
                read[positions] = own.view(-1, 1).expand_as(positions)
    result = torch.zeros(total + 1, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    with _gates(network, readers) as gates:
        for batch in torch.split(inputs, BATCH):
            logits = network(batch)
            for _ in range(SUMS):
                gates[0] = torch.zeros(len(batch), total + 1)
                signs = torch.randint(0, 2, logits.shape, generator=random) * 2 - 1
                logits.backward(signs.to(logits.dtype), retain_graph=True)
                result += gates[0].double().square().sum(0)
            network.zero_grad()
    if not result.isfinite().all():
        raise ModelError("the network answers with what is no number; train it again with a smaller learning_rate")
    return list(torch.split(result[:total], lengths))


@contextmanager
def _gates(network: nn.Module, readers: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
    """Add up value times gradient of what each layer reads, into the one entry of the list: [images, channels]."""
    gates: list[Tensor] = [torch.empty(0)]

    def watch(module: nn.Module, arguments: tuple[Any, ...], numbers: Tensor) -> tuple[Any, ...]:
        values: Tensor = arguments[0]
        if not values.requires_grad:
            return arguments
        values = values.view_as(values)  # its gradient comes from this layer alone
        dimension = 1 if isinstance(module, nn.Conv2d) else values.ndim - 1

        def add(gradient: Tensor) -> None:
            products = (values.detach() * gradient).movedim(dimension, 1)
            gates[0].index_add_(1, numbers, products.flatten(2).sum(2) if products.ndim > 2 else products)

        values.register_hook(add)  # type: ignore[no-untyped-call]
        return (values, *arguments[1:])

    layers = {network.get_submodule(name.rpartition(".")[0]): numbers for name, numbers in readers.items()}
    hooks = [layer.register_forward_pre_hook(partial(watch, numbers=numbers)) for layer, numbers in layers.items()]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


class _Steps:
    """Takes channels away in numbers, always those that matter least for the multiplications they cost."""

    def __init__(
        self, found: Channels, importance: Sequence[Sequence[float]], sizes: Mapping[str, list[int]], multiple: int
    ) -> None:
        """Begin with all channels: `importance` of each, ascending, and the shape of each weight, which is changed."""
        self._found, self._sizes, self._multiple = found, sizes, multiple
        self._importance = [[0.0, *np.cumsum(values).tolist()] for values in importance]
        self._weights = [
            {place: positions.shape[1] for place, positions in coupled.positions.items() if place.tensor in sizes}
            for coupled in found.removable
        ]
        self.removed = [0] * len(found.removable)

    def take(self, operations: int, goal: float) -> int:
        """Remove until no more multiplications than `goal` are left; return how many are.

        Raises:
            ModelError: that cannot be reached.
        """
        before = operations
        steps = {index: step for index in range(len(self.removed)) if (step := self._step(index))}
        while operations > goal:
            if not steps:
                raise ModelError(
                    f"at most {1 - operations / before:.0%} of this network's multiplications can be removed, of the "
                    f"{1 - goal / before:.0%} asked for; ask for less, or compress it by another method"
                )
            index = min(steps, key=lambda index: steps[index][:2])
            _, saved, count = steps[index]
            operations += saved
            self.removed[index] += count
            self._cut(index, count, self._sizes)
            touched = {place.tensor for place in self._weights[index]}
            for other, weights in enumerate(self._weights):
                if any(place.tensor in touched for place in weights):
                    steps.pop(other, None)
                    if step := self._step(other):
                        steps[other] = step
        return operations

    def _step(self, index: int) -> tuple[float, int, int] | None:
        """Return importance for each multiplication saved, minus these, and the number of channels; None: no more."""
        whole, removed = len(self._found.removable[index]), self.removed[index]
        left = (whole - removed - 1) // self._multiple * self._multiple
        if left < max(self._multiple, whole * FEWEST):
            return None
        count = whole - removed - left
        sizes = {place.tensor: list(self._sizes[place.tensor]) for place in self._weights[index]}
        saved = self._operations(sizes)
        self._cut(index, count, sizes)
        saved -= self._operations(sizes)
        lost = self._importance[index][removed + count] - self._importance[index][removed]
        return (lost / saved, -saved, count) if saved else None

    def _cut(self, index: int, count: int, sizes: Mapping[str, list[int]]) -> None:
        for place, positions in self._weights[index].items():
            sizes[place.tensor][place.dimension] -= count * positions

    def _operations(self, sizes: Mapping[str, list[int]]) -> int:
        return sum(self._found.uses[name] * math.prod(size) for name, size in sizes.items())


def _remove(network: nn.Module, removable: Sequence[Coupled], removed: Sequence[Tensor], inputs: Tensor) -> None:
    """Cut channels out of the tensors, and check that the answers are those with zeros in place of these channels."""
    state = network.state_dict()
    zeros = {name: value.clone() for name, value in state.items()}
    kept: dict[Place, Tensor] = {}
    for coupled, gone in zip(removable, removed, strict=True):
        for place, positions in coupled.positions.items():
            stays = kept.setdefault(place, torch.ones(state[place.tensor].shape[place.dimension], dtype=torch.bool))
            stays[positions[gone]] = False
    for place, stays in kept.items():
        state[place.tensor] = state[place.tensor][stays] if place.dimension == 0 else state[place.tensor][:, stays]
        if place.dimension == 1:
            zeros[place.tensor][:, ~stays] = 0
    with torch.no_grad():
        expected = with_weights(network, zeros)(inputs)
        try:
            answers = with_weights(network, state)(inputs)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"this network does not work with fewer channels: {reason[:200]}") from error
    if (answers - expected).abs().max() > TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ModelError("this network answers differently without channels that no layer reads; compress it otherwise")

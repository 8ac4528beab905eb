"""Which channels of a network can be removed, and what has to be cut for it: read off the network's exported program.

A channel that one layer makes is read by others, summed with a channel of another layer, scaled by a third. All of that
can only be removed together. It is found by running the program on numbers of channels in place of values: a layer
gives new numbers, a sum makes two numbers one, and operations that move values (concatenate, reshape, permute) move
numbers just so. An operation that is not known here keeps all channels that it reads and makes: a network of a kind
that nobody thought of loses fewer channels, never a wrong one.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
# Beside what torch itself calls pointwise.
POINTWISE = (aten.hardswish.default, aten.hardswish_.default, aten.dropout.default, aten.dropout_.default)
# Each value of the result depends on values of its own channel only, which lies along dimension 1.
WITHIN_CHANNEL = (
    *(aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default),
    *(aten.adaptive_max_pool2d.default, aten.pad.default, aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec),
)
# These move values, and are run on the numbers of channels themselves.
MOVING = (
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default, aten.transpose.int),
    *(aten.cat.default, aten.slice.Tensor, aten.select.int, aten.split.Tensor, aten.split_with_sizes.default),
    *(aten.chunk.default, aten.unbind.int, aten.expand.default, aten.squeeze.dim, aten.squeeze.dims),
    *(aten.unsqueeze.default, aten.contiguous.default, operator.getitem),
)
MEANS = (aten.mean.dim, aten.amax.default)
KEPT = 0  # the number of every channel that has to stay
SCALES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, order=True)
class Place:
    """A dimension of a tensor along which channels lie.

    Attributes:
        tensor: its name in the state dict.
        dimension: 0 where a layer makes the channels, 1 where it reads them.
    """

    tensor: str
    dimension: int


@dataclass(frozen=True)
class Coupled:
    """Channels that lie in the same places, any of which can be removed from all of them.

    Attributes:
        positions: for each place the positions of each channel, int64 [channels, positions of one].
    """

    positions: Mapping[Place, Tensor]

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(next(iter(self.positions.values())))


@dataclass(frozen=True)
class Channels:
    """The channels of a network.

    Attributes:
        removable: those that can be removed; the order is that in which the network makes them.
        uses: how often each value of a layer's weight is multiplied for one image, by the weight's name.
    """

    removable: tuple[Coupled, ...]
    uses: Mapping[str, int]


def find(network: nn.Module, shape: tuple[int, int, int]) -> Channels:
    """Find the channels of a network in evaluation mode that takes one image [1, C, H, W] of `shape`.

    Raises:
        Exception: torch.export cannot follow the network; it has many classes of errors.
    """
    program = torch.export.export(network, (torch.zeros(1, *shape),))
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    return _Reading(names).read(program.graph.nodes)


class _Reading:
    """One pass over a program."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._numbers: dict[Node, Any] = {}  # what stands for a value: a tensor of numbers of channels, or several
        self._same = torch.zeros(1, dtype=torch.int64)  # for each number a smaller one of the same channel, or itself
        self._places: dict[Place, Tensor] = {}
        self._uses: defaultdict[str, int] = defaultdict(int)

    def read(self, nodes: Iterator[Node]) -> Channels:
        for node in nodes:
            if node.op == "placeholder":
                self._numbers[node] = torch.full(node.meta["val"].shape, KEPT)
            elif node.op == "output":
                self._keep(node)
            else:
                self._numbers[node] = self._call(node)
        return Channels(tuple(self._coupled()), self._uses)

    def _call(self, node: Node) -> Any:
        target: Any = node.target
        if target in CONVOLUTIONS and self._is_layer(node):
            return self._convolution(node)
        if target is aten.linear.default and self._is_layer(node):
            return self._layer(node, self._numbers[node.all_input_nodes[0]].movedim(-1, 0).flatten(1), -1)
        if target is aten.batch_norm.default and self._is_layer(node):
            return self._scaled(node, node.args[1:5])
        if target in MOVING:
            return target(*self._arguments(node.args), **node.kwargs)
        if target in WITHIN_CHANNEL or target in MEANS:
            return self._within_channel(node)
        if target in POINTWISE or torch.Tag.pointwise in getattr(target, "tags", ()):
            return self._pointwise(node)
        self._keep(node)
        return _kept(node)

    def _is_layer(self, node: Node) -> bool:
        """Tell whether all tensors but the first are parameters or buffers as they are, which no other node uses."""
        return all(value.name in self._names and len(value.users) == 1 for value in node.all_input_nodes[1:])

    def _convolution(self, node: Node) -> Any:
        weight: Tensor = node.args[1].meta["val"]  # type: ignore[union-attr]
        outputs, inputs = weight.shape[:2]
        numbers = self._numbers[node.all_input_nodes[0]]
        if inputs == numbers.shape[1]:
            return self._layer(node, numbers.movedim(1, 0).flatten(1), 1)
        self._count(node, 1)
        if inputs == 1 and outputs == numbers.shape[1]:  # depthwise: a kernel for each channel
            return self._scaled(node, node.args[1:3])
        self._keep(node)
        return _kept(node)

    def _layer(self, node: Node, numbers: Tensor, dimension: int) -> Tensor:
        """Read channels, numbers [channels, positions], and make new ones along a dimension of the result."""
        weight, *bias = (self._names[value.name] for value in node.all_input_nodes[1:])
        self._count(node, dimension)
        self._equal(numbers, numbers[:, :1].expand_as(numbers))
        self._places[Place(weight, 1)] = numbers[:, 0]
        shape: torch.Size = node.meta["val"].shape
        new = torch.arange(len(self._same), len(self._same) + shape[dimension])
        self._same = torch.cat([self._same, new])
        for name in (weight, *bias):
            self._places[Place(name, 0)] = new
        return new.view([-1 if at == dimension % len(shape) else 1 for at in range(len(shape))]).expand(shape)

    def _scaled(self, node: Node, tensors: tuple[Any, ...]) -> Tensor:
        """Give each channel, along dimension 1, its own values of some tensors."""
        result: Tensor = self._within_channel(node)
        channels = result.movedim(1, 0).flatten(1)[:, 0]
        for value in tensors:
            if isinstance(value, Node):
                self._places[Place(self._names[value.name], 0)] = channels
        return result

    def _within_channel(self, node: Node) -> Any:
        """Make values out of those of the same channel, which lies along dimension 1."""
        numbers = self._numbers[node.all_input_nodes[0]]
        if numbers.ndim < 2 or (len(node.all_input_nodes) > 1 and not self._is_layer(node)):
            self._keep(node)
            return _kept(node)
        rows = numbers.movedim(1, 0).flatten(1)
        self._equal(rows, rows[:, :1].expand_as(rows))

        def spread(value: Tensor) -> Tensor:
            own: Tensor = rows[:, 0].view(1, -1, *[1] * (value.ndim - 2))
            return own.expand(value.shape)

        return torch.utils._pytree.tree_map(spread, node.meta["val"])

    def _pointwise(self, node: Node) -> Tensor:
        shape: torch.Size = node.meta["val"].shape
        first, *others = (self._numbers[value].expand(shape) for value in node.all_input_nodes)
        for other in others:
            self._equal(first, other)
        return torch.as_tensor(first)

    def _keep(self, node: Node) -> None:
        for value in node.all_input_nodes:
            for numbers in torch.utils._pytree.tree_leaves(self._numbers[value]):
                self._equal(numbers, torch.full_like(numbers, KEPT))

    def _equal(self, some: Tensor, others: Tensor) -> None:
        """Note that these numbers are, pair by pair, of the same channel."""
        while True:
            some, others = self._same[some], self._same[others]
            different = some != others
            if not different.any():
                return
            some, others = some[different], others[different]
            smaller, larger = torch.minimum(some, others), torch.maximum(some, others)
            self._same.scatter_reduce_(0, larger, smaller, "amin")  # of several, the rest takes another round
            while not torch.equal(roots := self._same[self._same], self._same):
                self._same = roots

    def _count(self, node: Node, dimension: int) -> None:
        shape: torch.Size = node.meta["val"].shape
        self._uses[self._names[node.all_input_nodes[1].name]] += shape.numel() // shape[dimension]

    def _arguments(self, arguments: Any) -> Any:
        return torch.fx.node.map_arg(arguments, lambda value: self._numbers[value])

    def _coupled(self) -> Iterator[Coupled]:
        """Sort channels by where they lie; each root that is not kept is one channel."""
        same = self._same.tolist()
        positions: defaultdict[int, dict[Place, list[int]]] = defaultdict(dict)
        for place, numbers in sorted(self._places.items()):
            for position, number in enumerate(numbers.tolist()):
                if (root := same[number]) != KEPT:
                    positions[root].setdefault(place, []).append(position)
        alike: defaultdict[tuple[tuple[Place, int], ...], list[dict[Place, list[int]]]] = defaultdict(list)
        for _, channel in sorted(positions.items()):
            alike[tuple((place, len(found)) for place, found in channel.items())].append(channel)
        for places, channels in alike.items():
            yield Coupled({place: torch.tensor([channel[place] for channel in channels]) for place, _ in places})


def _kept(node: Node) -> Any:
    """Return numbers for the result of a node, all of whose channels stay; a node that checks something has none."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda value: torch.full(value.shape, KEPT), node.meta.get("val"))

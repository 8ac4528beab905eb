"""Small networks, each with one way in which channels depend on each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tasks.vision.compression.channels import Channels, Place, find


def places(found: Channels) -> list[dict[tuple[str, int], list[list[int]]]]:
    return [
        {(place.tensor, place.dimension): positions.tolist() for place, positions in coupled.positions.items()}
        for coupled in found.removable
    ]


def convolution(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, groups=groups)


class Two(nn.Module):
    """Two convolutions of the image, what joins them, and a third."""

    def __init__(self, outputs: int = 4, read: int = 4) -> None:
        super().__init__()
        self.a, self.b, self.last = convolution(3, 4), convolution(3, outputs), convolution(read, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.join(self.a(images), self.b(images)))

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concatenated(Two):
    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)


class Halves(Two):
    """The halves of one are added to each other: two channels are read as one."""

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = (a * b.sigmoid()).chunk(2, 1)
        return first + second


class Shuffled(Two):
    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b).view(1, 2, 2, 4, 4).transpose(1, 2).reshape(1, 4, 4, 4)


class Mixed(Two):
    """An operation that reads several channels at once, and is no layer."""

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return a.softmax(1) + b


class Twice(Two):
    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(a)[:, :1] + b


def test_a_layer_its_normalisation_and_its_readers_lose_a_channel_together() -> None:
    network = nn.Sequential(convolution(3, 4), nn.BatchNorm2d(4), nn.ReLU(), convolution(4, 4, groups=4), nn.Flatten())
    network.append(nn.Linear(4 * 9, 2))
    found = find(network.eval(), (3, 3, 3))
    [channels] = places(found)
    own = [[0], [1], [2], [3]]
    made = {(name, 0): own for name in ("0.weight", "0.bias", "3.weight", "3.bias")}
    scaled = {(f"1.{name}", 0): own for name in ("weight", "bias", "running_mean", "running_var")}
    assert channels == {**made, **scaled, ("5.weight", 1): [list(range(at, at + 9)) for at in (0, 9, 18, 27)]}
    assert found.uses == {"0.weight": 9, "3.weight": 9, "5.weight": 1}


def test_a_sum_couples_channels() -> None:
    [channels] = places(find(Two(), (3, 4, 4)))
    assert set(channels) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.bias", 0), ("last.weight", 1)}


def test_concatenated_channels_are_removed_one_by_one() -> None:
    first, second = places(find(Concatenated(outputs=2, read=6), (3, 4, 4)))
    assert first[("last.weight", 1)] == [[0], [1], [2], [3]]
    assert second[("last.weight", 1)] == [[4], [5]]
    assert set(second) == {("b.weight", 0), ("b.bias", 0), ("last.weight", 1)}


def test_a_channel_may_lie_in_several_positions() -> None:
    [channels] = places(find(Halves(read=2), (3, 4, 4)))
    assert channels[("a.weight", 0)] == channels[("b.bias", 0)] == [[0, 2], [1, 3]]
    assert channels[("last.weight", 1)] == [[0], [1]]


def test_moved_channels_are_followed() -> None:
    [channels] = places(find(Shuffled(), (3, 4, 4)))
    assert channels[("a.weight", 0)] == [[0], [1], [2], [3]]
    assert channels[("last.weight", 1)] == [[0], [2], [1], [3]]


@pytest.mark.parametrize("network", [Mixed(), Twice()], ids=lambda network: type(network).__name__)
def test_what_is_not_understood_keeps_its_channels(network: nn.Module) -> None:
    assert find(network, (3, 4, 4)).removable == ()


def test_channels_of_grouped_convolutions_and_of_the_answer_stay() -> None:
    found = find(nn.Sequential(convolution(3, 4), convolution(4, 4, groups=2), convolution(4, 2)), (3, 4, 4))
    assert all(place.tensor not in ("0.weight", "2.weight") or place.dimension for place in _all_places(found))
    assert found.uses["1.weight"] == 16


def _all_places(found: Channels) -> set[Place]:
    return {place for coupled in found.removable for place in coupled.positions}

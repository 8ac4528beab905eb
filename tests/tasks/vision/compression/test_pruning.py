from __future__ import annotations

import copy
import logging
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.errors import DataError, ModelError, RequestError
from tasks.vision.compression import channels
from tasks.vision.compression.pruning import Pruned, prune, with_weights
from tasks.vision.models import onnx_form
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, Enlargement, digest
from tasks.vision.training.kernels import optimize_for_cpu

SIDE, CLASSES, SHARE = 32, 5, 0.4
NETWORKS = ("fast_cnn", "resnet18", "mobilenet_v3_small", "efficientnet_lite0", "test_convnext", "test_efficientnet")
FEW = ("mobilenet_v3_small", "efficientnet_lite0")


@cache
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (8, 3, SIDE, SIDE), np.uint8)


@cache
def classifier(name: str) -> Classifier:
    """A network whose normalisations have seen images, so that channels differ."""
    torch.manual_seed(0)
    network = build(name, CLASSES, (3, SIDE, SIDE))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None  # the mean of what is seen
    made = Classifier(network, [0.5] * 3, [0.25] * 3)
    with torch.no_grad():
        made.train()(torch.from_numpy(images()))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return made.eval()


@cache
def found(name: str) -> channels.Channels:
    """The channels of a network, which depend on no weight; torch.export takes seconds to follow it."""
    return channels.find(classifier(name).network, (3, SIDE, SIDE))


def prune_found(name: str, made: Classifier, share: float) -> Pruned:
    """Prune a network of this name, whose channels are looked for only once in all these tests."""
    known = found(name)
    with mock.patch.object(channels, "find", return_value=known):
        return prune(made, images(), share)


@cache
def pruned(name: str) -> Pruned:
    return prune_found(name, classifier(name), SHARE)


def answers(of: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return of(torch.from_numpy(images()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_share_of_the_operations_is_gone_and_the_answers_have_their_shape(name: str) -> None:
    before = digest(classifier(name))
    result = pruned(name)
    assert 1 - SHARE - 0.1 <= result.operations / result.operations_before <= 1 - SHARE
    with FlopCounterMode(display=False) as counter:
        result.classifier(torch.from_numpy(images()[:1]))
    assert counter.get_total_flops() == 2 * result.operations  # an addition with each multiplication
    assert answers(result.classifier).shape == (len(images()), CLASSES)
    assert answers(result.classifier).isfinite().all()
    assert digest(classifier(name)) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_keep_a_multiple_of_eight_channels(name: str) -> None:
    old, new = classifier(name).state_dict(), pruned(name).classifier.state_dict()
    changed = [key for key in old if len(old[key].shape) and len(old[key]) != len(new[key])]
    assert changed
    assert all(len(new[key]) % 8 == 0 for key in changed)


@pytest.mark.parametrize("name", FEW)
def test_pruned_twice_it_has_the_same_tensors(name: str) -> None:
    torch.manual_seed(1)  # whatever the state of torch's random numbers
    assert digest(prune(classifier(name), images(), SHARE).classifier) == digest(pruned(name).classifier)


@pytest.mark.parametrize("name", NETWORKS)
def test_stored_weights_rebuild_it_without_images(name: str) -> None:
    stored = {key: value.clone() for key, value in pruned(name).classifier.network.state_dict().items()}
    fresh = build(name, CLASSES, (3, SIDE, SIDE))
    rebuilt = Classifier(with_weights(fresh, stored), [0.5] * 3, [0.25] * 3).eval()
    assert torch.equal(answers(rebuilt), answers(pruned(name).classifier))
    assert str(rebuilt.network) == str(pruned(name).classifier.network)  # attributes of layers too
    next(iter(stored.values())).zero_()  # what was handed over is not shared
    assert torch.equal(answers(rebuilt), answers(pruned(name).classifier))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_nothing_depends_on_go_first_and_no_answer_changes(name: str) -> None:
    made = copy.deepcopy(classifier(name))
    state = made.network.state_dict()
    generator = torch.Generator().manual_seed(0)
    for coupled in found(name).removable:
        dead = torch.randperm(len(coupled), generator=generator)[: len(coupled) // 2]
        for place, positions in coupled.positions.items():
            if place.dimension == 1:
                state[place.tensor][:, positions[dead].flatten()] = 0
    result = prune_found(name, made, 0.15)
    assert result.operations < result.operations_before
    assert torch.allclose(answers(result.classifier), answers(made), atol=1e-4)


def test_its_onnx_form_answers_like_it(tmp_path: Path) -> None:
    smaller = pruned("test_efficientnet").classifier  # convolutions of each channel alone, in few layers
    example = torch.from_numpy(images()[:2])
    program = torch.export.export(smaller, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    onnx_form.export(tmp_path / "model.pt2", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    [answer] = session.run(None, {"images": images()})
    assert np.allclose(answer, answers(smaller).numpy(), atol=1e-4)


@pytest.mark.parametrize("name", FEW)
def test_it_can_be_trained_with_the_kernels_for_cpus(name: str) -> None:
    network = optimize_for_cpu(copy.deepcopy(pruned(name).classifier.network))
    network = network.to(memory_format=torch.channels_last).train()
    inputs = torch.randn(4, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    network(inputs).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


def test_images_are_enlarged_as_for_the_classifier() -> None:
    larger = Classifier(classifier("fast_cnn").network, [0.5] * 3, [0.25] * 3, Enlargement(48)).eval()
    result = prune(larger, images(), SHARE)
    assert result.operations_before > 2 * pruned("fast_cnn").operations_before
    assert answers(result.classifier).isfinite().all()


def test_hidden_layers_of_a_transformer_can_be_pruned() -> None:
    torch.manual_seed(0)
    made = Classifier(build("test_vit", CLASSES, (3, 160, 160)), [0.5] * 3, [0.25] * 3).eval()
    result = prune(made, np.zeros((2, 3, 160, 160), np.uint8), 0.1)
    assert result.operations <= 0.9 * result.operations_before


def test_what_was_removed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prune(classifier("fast_cnn"), images(), 0.1)
    assert "of 416 channels" in caplog.text


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(RequestError, match=f"share={share}"):
        prune(classifier("fast_cnn"), images(), share)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        prune(classifier("fast_cnn"), images()[:0], SHARE)


def test_more_than_can_be_removed_is_refused() -> None:
    with pytest.raises(ModelError, match=r"at most 9\d% of this network's multiplications .* of the 99% asked for"):
        prune(classifier("fast_cnn"), images(), 0.99)


def test_a_network_of_a_single_layer_is_refused() -> None:
    single = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)), [0.5] * 3, [0.25] * 3)
    with pytest.raises(ModelError, match="no channel of this network can be removed"):
        prune(single, images(), SHARE)


class Branching(nn.Sequential):
    """Decides by values: torch.export cannot follow it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input if input.sum() > 0 else -input)


class Counting(nn.Sequential):
    """Knows by heart how many channels its first layer has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self[2](self[1](self[0](input).view(-1, 32, SIDE, SIDE)).mean((2, 3)))


def layers() -> tuple[nn.Module, ...]:
    return nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Linear(32, CLASSES)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)), "torch.export cannot read it"),
        (Counting(*layers()), "does not work with fewer channels"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused_in_one_line(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        prune(Classifier(network, [0.5] * 3, [0.25] * 3), images(), 0.7)
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_refused() -> None:
    broken = copy.deepcopy(classifier("fast_cnn"))
    nn.init.constant_(broken.network.classifier.bias, float("nan"))
    nn.init.constant_(broken.network.classifier.weight, float("nan"))
    with pytest.raises(ModelError, match="what is no number"):
        prune(broken, images(), SHARE)


def test_a_wrong_reading_of_a_network_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = channels.find

    def wrong(network: nn.Module, shape: tuple[int, int, int]) -> channels.Channels:
        found = right(network, shape)
        first = found.removable[0]
        moved = {
            place: positions.flip(0) if place.dimension else positions for place, positions in first.positions.items()
        }
        return channels.Channels((channels.Coupled(moved),), found.uses)

    monkeypatch.setattr(channels, "find", wrong)
    with pytest.raises(ModelError, match="answers differently"):
        prune(classifier("fast_cnn"), images(), 0.1)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match="of another network"):
        with_weights(build("resnet18", CLASSES, (3, SIDE, SIDE)), pruned("fast_cnn").classifier.network.state_dict())

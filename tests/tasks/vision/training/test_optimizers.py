from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.contract.recipe import Recipe
from tasks.vision.training.optimizers import WeightAverage, make_optimizer, set_learning_rate


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(changes)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_and_scales_are_not_decayed(name: str) -> None:
    optimizer = make_optimizer(network(), recipe(optimizer=name, weight_decay=0.1))
    decay = {parameter.ndim: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay == {4: 0.1, 2: 0.1, 1: 0.0}


def test_frozen_weights_are_left_alone() -> None:
    model = network()
    model[0].requires_grad_(False)
    groups = make_optimizer(model, recipe()).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


def test_sgd_is_nesterov_unless_there_is_no_momentum() -> None:
    assert make_optimizer(network(), recipe(momentum=0.8)).defaults["nesterov"]
    assert not make_optimizer(network(), recipe(momentum=0.0)).defaults["nesterov"]


def test_momentum_is_adamws_first_beta() -> None:
    assert make_optimizer(network(), recipe(optimizer="adamw", momentum=0.7)).defaults["betas"] == (0.7, 0.999)


def test_the_learning_rate_is_set_in_every_group() -> None:
    optimizer = make_optimizer(network(), recipe())
    set_learning_rate(optimizer, 0.123)
    assert [group["lr"] for group in optimizer.param_groups] == [0.123, 0.123]


def test_average_follows_its_formula_and_leaves_the_network_alone() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.9)
    model.weight.data.fill_(1.0)
    average.update(model, step=1000)
    assert average.network.get_parameter("weight").item() == pytest.approx(0.1)
    assert model.weight.item() == 1.0
    assert not average.network.get_parameter("weight").requires_grad


def test_early_average_forgets_the_first_weights_quickly() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.999)
    model.weight.data.fill_(1.0)
    average.update(model, step=1)
    assert average.network.get_parameter("weight").item() == pytest.approx(1 - 2 / 11)


def test_average_covers_the_statistics_of_normalisation() -> None:
    model = nn.BatchNorm2d(1)
    average = WeightAverage(model, decay=0.5)
    model(torch.full((2, 1, 2, 2), 10.0))
    average.update(model, step=1000)
    assert average.network.get_buffer("running_mean").item() == pytest.approx(0.5)
    assert average.network.get_buffer("num_batches_tracked").item() == 1

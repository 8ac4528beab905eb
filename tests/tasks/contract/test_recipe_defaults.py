"""The values that nobody sets: by data set, number of images, size, device, and whether weights are at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.datasets import DATASETS, NETWORK
from tasks.contract.messages import parse
from tasks.contract.recipe import (
    EPOCHS,
    FINE_TUNED,
    FINE_TUNED_SIDE,
    LARGER_SIDE,
    LARGER_UP_TO,
    Basis,
    Hyperparameters,
    Recipe,
)
from tasks.contract.training import TrainRequest
from tasks.errors import RequestError

BASE = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}, "prepare_run_id": "0" * 32}
LITE = "efficientnet_lite0"
PHOTOS = Basis("image_folder", images=1000, side=224, pretrained=frozenset({LITE}))


def train(**values: Any) -> TrainRequest:
    return parse(TrainRequest, BASE | values, RequestError)


def test_a_folder_of_photos_gets_a_network_with_weights_and_other_data_sets_the_small_one() -> None:
    assert {name: train().network(name) for name in DATASETS} == {
        name: LITE if name == "image_folder" else NETWORK for name in DATASETS
    }
    assert train().network("of_an_earlier_release") == NETWORK


@pytest.mark.parametrize("values", [{"weights": "none"}, {"finetune": "scratch"}])
def test_without_weights_a_folder_of_photos_gets_the_small_network_too(values: dict[str, str]) -> None:
    assert not train(**values).starts_from_weights
    assert train(**values).network("image_folder") == NETWORK


def test_a_network_that_is_set_is_that_network() -> None:
    assert train(model="resnet18").network("image_folder") == "resnet18"
    assert train(model="resnet18", weights="none").network("digits") == "resnet18"


def test_pretrained_weights_bring_their_own_defaults() -> None:
    recipe = train().recipe(PHOTOS)
    assert recipe.model == LITE
    assert recipe.finetune == "gradual"
    assert {name: getattr(recipe, name) for name in FINE_TUNED} == FINE_TUNED
    assert recipe.input_side is None


def test_a_network_without_weights_has_the_defaults_for_random_ones() -> None:
    recipe = train().recipe(replace(PHOTOS, pretrained=frozenset()))
    assert recipe == Recipe(model=LITE)
    assert (recipe.finetune, recipe.epochs, recipe.optimizer, recipe.layer_decay) == ("scratch", EPOCHS, "sgd", 1.0)


def test_what_is_set_or_chosen_goes_before_the_defaults_for_pretrained_weights() -> None:
    chosen = Hyperparameters(learning_rate=0.004, weight_decay=0.01)
    recipe = train(learning_rate=0.002, epochs=2, optimizer="sgd", finetune="full").recipe(PHOTOS, chosen)
    assert (recipe.learning_rate, recipe.weight_decay) == (0.002, 0.01)
    assert (recipe.epochs, recipe.optimizer, recipe.finetune) == (2, "sgd", "full")


@pytest.mark.parametrize(
    ("images", "device", "epochs"),
    [(200, "cpu", 30), (1000, "cpu", 12), (2000, "cpu", 6), (50_000, "cpu", 3), (1000, "gpu", 30), (50_000, "gpu", 5)],
)
def test_the_more_images_the_fewer_epochs(images: int, device: Any, epochs: int) -> None:
    assert train().recipe(replace(PHOTOS, images=images, device=device)).epochs == epochs


def test_the_head_alone_takes_one_pass() -> None:
    assert train(finetune="head").recipe(PHOTOS).epochs == 1
    assert train(finetune="head", epochs=4).recipe(PHOTOS).epochs == 4


@pytest.mark.parametrize(
    ("finetune", "images", "enough"),
    [
        ("gradual", LARGER_UP_TO + 1, FINE_TUNED_SIDE),
        ("gradual", LARGER_UP_TO, LARGER_SIDE),
        ("full", 10_000, FINE_TUNED_SIDE),
        ("head", 10_000, LARGER_SIDE),
    ],
)
def test_smaller_images_are_enlarged_for_pretrained_weights(finetune: str, images: int, enough: int) -> None:
    for side, input_side in ((32, enough), (enough - 1, enough), (enough, None), (224, None)):
        recipe = train(finetune=finetune).recipe(replace(PHOTOS, side=side, images=images))
        assert recipe.input_side == input_side


@pytest.mark.parametrize("side", [32, 64])
def test_a_given_size_is_taken_and_random_weights_get_none(side: int) -> None:
    assert train(input_side=96).recipe(replace(PHOTOS, side=side)).input_side == 96
    assert train(weights="none").recipe(replace(PHOTOS, side=side, pretrained=frozenset())).input_side is None


def test_an_own_network_with_weights_keeps_the_size_of_its_images() -> None:
    basis = Basis("digits", images=1000, side=8, pretrained=frozenset({"fast_cnn"}))
    recipe = train(weights="models:/digits@champion").recipe(basis)
    assert (recipe.model, recipe.finetune, recipe.input_side) == ("fast_cnn", "gradual", None)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"weights": "none", "finetune": "head"}, "finetune='head' needs weights, and weights='none'"),
        ({"weights": "pretrained", "finetune": "scratch"}, "finetune='scratch' uses no weights='pretrained'"),
        ({"weights": "s3://b/k.pt", "finetune": "scratch"}, "finetune='scratch' uses no weights='s3://b/k.pt'"),
        ({"weights": "best"}, "weights='best'"),
        ({"weights": ""}, "weights=''"),
        ({"weights": "a/" + "b" * 1000}, "weights="),
        ({"finetune": "all"}, "finetune='all'"),
        ({"input_side": 4}, "input_side=4"),
        ({"layer_decay": 0}, "layer_decay=0"),
    ],
)
def test_what_contradicts_itself_or_cannot_be_is_refused_in_one_line(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError) as caught:
        train(**values)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "weights", ["auto", "none", "pretrained", "w.safetensors", "w.pt", "./w", "s3://b/k", "models:/pets@champion"]
)
def test_weights_are_a_word_a_file_or_an_address(weights: str) -> None:
    assert train(weights=weights).weights == weights


def test_none_and_scratch_say_the_same() -> None:
    assert train(weights="none", finetune="scratch").recipe(PHOTOS).model == NETWORK

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contract.messages import parse
from tasks.contract.recipe import FINE_TUNED, Basis, GivenHyperparameters, Hyperparameters, Recipe
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.errors import RequestError

BASE = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}, "prepare_run_id": "0" * 32}
BASIS = Basis("digits", images=1000, side=8)


def train(**values: Any) -> TrainRequest:
    return TrainRequest.model_validate(BASE | values)


def tune(**values: Any) -> TuneRequest:
    return parse(TuneRequest, BASE | values, RequestError)


def test_what_is_not_given_is_the_default() -> None:
    assert train().recipe(BASIS) == Recipe()


def test_given_by_hand_wins_over_chosen_and_chosen_over_default() -> None:
    chosen = Hyperparameters(learning_rate=0.02, momentum=0.85)
    recipe = train(learning_rate=0.5, epochs=3, model="resnet18").recipe(BASIS, chosen)
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.5, 0.85, 5e-4)
    assert (recipe.epochs, recipe.model) == (3, "resnet18")


def test_a_value_given_equal_to_the_default_is_given_all_the_same() -> None:
    assert train(learning_rate=0.1).recipe(BASIS, Hyperparameters(learning_rate=0.02)).learning_rate == 0.1


def test_a_trial_may_choose_some_and_the_network() -> None:
    recipe = tune().recipe(BASIS, {"learning_rate": 0.02, "model": "resnet18"})
    assert (recipe.learning_rate, recipe.model, recipe.batch_size) == (0.02, "resnet18", 64)


def test_a_value_out_of_its_limits_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        tune().recipe(BASIS, {"learning_rate": 11})


def test_every_hyperparameter_can_be_given_within_the_same_limits() -> None:
    assert set(GivenHyperparameters.model_fields) == set(Hyperparameters.model_fields)
    for name in Hyperparameters.model_fields:
        with pytest.raises(ValidationError):
            Hyperparameters.model_validate({name: -1})
        with pytest.raises(ValidationError):
            train(**{name: -1})


def test_the_text_of_each_names_its_real_default() -> None:
    for name, field in Hyperparameters.model_fields.items():
        text = GivenHyperparameters.model_fields[name].description or ""
        said = re.search(r"Default: tuned, else (\S+?)(?:, or (\S+) with pretrained weights)?\.$", text)
        assert said, text
        assert type(field.default)(said[1]) == field.default, name
        assert type(field.default)(said[2] or said[1]) == FINE_TUNED.get(name, field.default), name


def test_what_is_given_is_not_searched() -> None:
    request = tune(learning_rate=0.05)
    assert "learning_rate" not in request.dimensions
    assert "momentum" in request.dimensions
    assert "model" not in request.dimensions


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"trials": 0}, "trials=0"),
        ({"metric": "test_accuracy"}, "metric='test_accuracy'"),
        ({"grace_epochs": 20, "epochs": 15}, "grace_epochs=20 is more than epochs=15"),
        ({"trial_gpus": -1}, "trial_gpus=-1"),
        ({"trial_cpus": 0}, "trial_cpus=0"),
        ({"trial_workers": 0}, "trial_workers=0"),
        ({"trial_workers": 2, "trial_cpus": 1.5}, "need whole cores; set trial_cpus to 2"),
        (
            {"trial_workers": 2, "trial_gpus": 0.5},
            "each of trial_workers=2 has one GPU or none; set trial_gpus to 0 or 1",
        ),
        ({"trial_workers": 2, "trial_gpus": 2}, "trial_gpus=2 is neither 0 nor 1"),
        ({"search_space": {"momentum": {"low": 0.9, "high": 0.8}}}, "low=0.9 must be less than high=0.8"),
        ({"search_space": {"learning_rate": {"low": 0, "high": 0.1, "log": True}}}, "low=0 has no logarithm"),
        ({"search_space": {"learning_rate": {"low": 0.1, "high": 20}}}, "learning_rate: 20.0 is outside its limits"),
        ({"search_space": {"batch_size": []}}, "leaves nothing to choose"),
        ({"search_space": {"batch_size": [32, 32]}}, "32 is in the list twice"),
        ({"search_space": {"batch_size": [1]}}, "batch_size"),
        ({"search_space": {"schedule": ["linear"]}}, "schedule"),
        ({"search_space": {"model": ["alexnet"]}}, "model"),
        ({"search_space": {"epochs": [3, 5]}}, "epochs: unknown parameter"),
        ({"search_space": None}, "search_space"),
        ({"searcher": "grid"}, "momentum, label_smoothing, augmentation can take infinitely many"),
    ],
)
def test_a_search_that_cannot_work_is_refused_with_its_value(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text)):
        tune(**values)


NOTHING = dict.fromkeys(["learning_rate", "weight_decay", "momentum", "label_smoothing", "augmentation", "schedule"])


def test_an_empty_space_is_refused() -> None:
    for space in ({"batch_size": None}, {"batch_size": [64]}):
        with pytest.raises(RequestError, match="nothing to search"):
            tune(search_space=NOTHING | space)
    with pytest.raises(RequestError, match="nothing to search"):
        tune(search_space=NOTHING, batch_size=64)


def test_a_grid_has_at_most_as_many_combinations_as_trials() -> None:
    space = NOTHING | {"batch_size": [32, 64], "learning_rate": [0.1, 0.05, 0.01]}
    assert tune(searcher="grid", trials=6, search_space=space).trials == 6
    with pytest.raises(RequestError, match="6 combinations, trials=5"):
        tune(searcher="grid", trials=5, search_space=space)

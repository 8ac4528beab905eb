from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.contract.messages import parse
from tasks.contract.recipe import Hyperparameters
from tasks.contract.search_space import Interval, SearchSpace
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.errors import DataError, RequestError

# As the release before wrote it: its defaults are those of today.
OLD_SET = (
    '{"batch_size":32,"learning_rate":0.0168,"momentum":0.878,"weight_decay":1.36e-05,"schedule":"one_cycle",'
    '"augmentation":0.257,"label_smoothing":0.0712}'
)
NEW = {"auto_augment", "mixup", "cutmix", "class_balance", "layer_decay"}
RUN = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}, "prepare_run_id": "0" * 32}


def tune(**values: Any) -> TuneRequest:
    return parse(TuneRequest, RUN | values, RequestError)


def test_every_hyperparameter_can_be_searched() -> None:
    assert set(Hyperparameters.model_fields) <= set(SearchSpace.model_fields)


def test_augmentation_beyond_its_strength_is_searched_only_when_asked_for() -> None:
    assert not NEW & set(tune().dimensions)
    asked = {
        "auto_augment": ["none", "trivial"],
        "mixup": {"low": 0, "high": 0.4},
        "cutmix": [0, 1],
        "class_balance": ["none", "weights", "sampler"],
        "layer_decay": [0.65, 0.75],
    }
    found = tune(search_space=asked).dimensions
    assert set(found) >= NEW
    assert found["mixup"] == Interval(low=0, high=0.4)
    assert found["auto_augment"] == ["none", "trivial"]
    assert not {"mixup"} & set(tune(search_space=asked, mixup=0.2).dimensions)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"mixup": {"low": 0, "high": 2}}, "mixup: 2.0 is outside its limits"),
        ({"cutmix": [0.5, -1]}, "cutmix: -1.0 is outside its limits"),
        ({"auto_augment": ["autoaugment"]}, "auto_augment"),
        ({"class_balance": []}, "leaves nothing to choose"),
    ],
)
def test_what_is_outside_the_limits_is_refused_in_one_line(space: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text) as refused:
        tune(search_space=space)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [{"mixup": 1.5}, {"cutmix": -0.1}, {"auto_augment": "auto"}, {"class_balance": True}, {"mixup": float("nan")}],
    ids=str,
)
def test_a_bad_value_in_a_request_is_named_in_one_line(value: dict[str, Any]) -> None:
    (name,) = value
    with pytest.raises(RequestError, match=name) as refused:
        parse(TrainRequest, RUN | value, RequestError)
    assert "\n" not in str(refused.value)


def test_a_set_found_by_an_earlier_release_is_read_and_trains_as_it_did() -> None:
    old = parse(Hyperparameters, OLD_SET, DataError)
    assert old.model_dump() == json.loads(OLD_SET) | {
        "layer_decay": 1.0,
        "auto_augment": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
        "class_balance": "none",
    }

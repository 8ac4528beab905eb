from __future__ import annotations

import pytest

from tasks.contract.messages import parse
from tasks.contract.networks import NETWORKS, Network
from tasks.contract.stages import parameters
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.errors import RequestError

BASE = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}, "prepare_run_id": "0" * 32}


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network that somebody added to the table."""
    monkeypatch.setitem(NETWORKS, "new", Network("for tests", "resnet", "resnet34", learning_rate=0.03))
    return "new"


def test_the_form_offers_every_network_and_says_what_each_is_for() -> None:
    schema = parameters(TrainRequest)["model"]
    assert schema["enum"] == list(NETWORKS)
    assert schema["default"] in NETWORKS
    for name, network in NETWORKS.items():
        assert f"{name} {network.description}" in schema["description"]


def test_an_entry_is_a_choice_of_the_form_and_of_a_search(new: str) -> None:
    assert parameters(TrainRequest)["model"]["enum"][-1] == new
    assert TrainRequest.model_validate(BASE | {"model": new}).recipe().model == new
    space = {"model": ["fast_cnn", new]}
    assert parse(TuneRequest, BASE | {"search_space": space}, RequestError).search_space.model == ["fast_cnn", new]


def test_an_unknown_network_is_named_with_all_that_there_are(new: str) -> None:
    with pytest.raises(RequestError, match=f"model='vgg': unknown; choose one of fast_cnn, .*, resnet18, {new}$"):
        parse(TrainRequest, BASE | {"model": "vgg"}, RequestError)


def test_a_network_brings_its_learning_rate_which_a_search_or_a_person_overrules(new: str) -> None:
    request = TrainRequest.model_validate(BASE | {"model": new})
    assert request.recipe().learning_rate == 0.03
    assert request.recipe({"learning_rate": 0.2}).learning_rate == 0.2
    assert request.model_copy(update={"learning_rate": 0.5}).recipe({"learning_rate": 0.2}).learning_rate == 0.5
    assert TrainRequest.model_validate(BASE).recipe({"model": new}).learning_rate == 0.03

from __future__ import annotations

import pytest

from tasks.contract.messages import parse
from tasks.contract.networks import NETWORKS, Network, find, same_network, timm_names
from tasks.contract.recipe import Basis
from tasks.contract.stages import parameters
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.errors import RequestError

BASE = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}, "prepare_run_id": "0" * 32}
BASIS = Basis("digits", images=1000, side=8)


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network that somebody added to the table."""
    monkeypatch.setitem(NETWORKS, "new", Network("for tests", "resnet", "resnet34", learning_rate=0.03))
    return "new"


def test_the_form_suggests_every_network_and_says_what_each_is_for() -> None:
    schema = parameters(TrainRequest)["model"]
    assert schema["examples"] == [AUTO, *NETWORKS]
    assert "enum" not in schema, "any other network of timm will do"
    assert schema["default"] == AUTO
    for name, network in NETWORKS.items():
        assert f"{name} {network.description}" in schema["description"]


def test_what_is_said_of_a_network_has_its_size_and_the_licence_of_its_weights() -> None:
    assert NETWORKS["efficientnet_lite0"].choice.endswith("4.7 million parameters, Apache-2.0")
    assert NETWORKS["fast_cnn"].choice == "for CPUs and small images"


def test_an_entry_is_a_choice_of_the_form_and_of_a_search(new: str) -> None:
    assert parameters(TrainRequest)["model"]["examples"][-1] == new
    assert TrainRequest.model_validate(BASE | {"model": new}).recipe(BASIS).model == new
    space = {"model": ["fast_cnn", new]}
    assert parse(TuneRequest, BASE | {"search_space": space}, RequestError).search_space.model == ["fast_cnn", new]


def test_any_network_of_timm_can_be_trained_without_an_entry() -> None:
    name = "mobilevitv2_050"
    assert name not in NETWORKS
    assert TrainRequest.model_validate(BASE | {"model": name}).recipe(BASIS).model == name
    assert (find(name).family, find(name).constructor) == ("timm", name)
    assert find(f"{name}.cvnets_in1k").constructor == f"{name}.cvnets_in1k"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("eficientnet_lite0", "did you mean efficientnet_lite0 or efficientnet_lite4 or "),
        ("resnet18d2", "did you mean resnet18d or resnet18 or resnet"),
        ("qqqqqq", "unknown; choose one of fast_cnn, "),
    ],
)
def test_an_unknown_network_is_named_with_the_nearest_and_the_table(new: str, name: str, near: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(TrainRequest, BASE | {"model": name}, RequestError)
    text = str(caught.value)
    assert f"model='{name}': unknown; " in text
    assert near in text
    assert text.endswith(f", {new}, or any network of timm")


def test_a_search_and_a_result_have_no_automatic_network() -> None:
    with pytest.raises(RequestError, match="'auto': unknown"):
        parse(TuneRequest, BASE | {"search_space": {"model": [AUTO]}}, RequestError)


def test_a_network_brings_its_learning_rate_which_a_search_or_a_person_overrules(new: str) -> None:
    request = TrainRequest.model_validate(BASE | {"model": new})
    assert request.recipe(BASIS).learning_rate == 0.03
    assert request.recipe(BASIS, {"learning_rate": 0.2}).learning_rate == 0.2
    given = request.model_copy(update={"learning_rate": 0.5})
    assert given.recipe(BASIS, {"learning_rate": 0.2}).learning_rate == 0.5
    assert TrainRequest.model_validate(BASE).recipe(BASIS, {"model": new}).learning_rate == 0.03


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("efficientnet_lite0", "tf_efficientnet_lite0", True),
        ("resnet50.a1_in1k", "resnet50", True),
        ("resnet50.a1_in1k", "resnet50.a2_in1k", True),
        ("resnet18", "resnet50.a1_in1k", False),
        ("fast_cnn", "mobilenet_v3_small", False),
        ("fast_cnn", "fast_cnn", True),
        ("resnet18", "resnet18.a1_in1k", False),  # torchvision's with a stem of its own, and timm's
    ],
)
def test_the_weights_that_a_name_asks_for_do_not_make_another_network(first: str, second: str, same: bool) -> None:
    assert same_network(first, second) is same
    assert same_network(second, first) is same


def test_the_list_of_names_is_that_of_the_installed_timm() -> None:
    import timm

    regenerate = (
        "write it again: python -c 'import timm; print(*timm.list_models(), sep=chr(10))' "
        "> tasks/contract/timm_networks.txt"
    )
    assert list(timm_names()) == timm.list_models(), regenerate


def test_every_network_of_timm_in_the_table_has_weights_with_the_size_and_licence_that_it_states() -> None:
    import timm
    import torch

    for name, network in NETWORKS.items():
        if network.family == "timm":
            about = timm.get_pretrained_cfg(network.constructor, allow_unregistered=False)
            assert about.hf_hub_id, name
            assert about.license.lower() == network.weights_licence.lower(), name
            with torch.device("meta"):
                made = timm.create_model(network.constructor, num_classes=1000)
            assert round(sum(p.numel() for p in made.parameters()) / 1e6, 1) == network.parameters, name

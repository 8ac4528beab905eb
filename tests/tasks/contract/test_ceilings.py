"""Ceilings: what is asked for above one is refused, a default above one is lowered."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.contract.ceilings import Ceilings
from tasks.contract.policies import Policies
from tasks.contract.resources import StageResources
from tasks.errors import SettingsError

GPU = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}


def applied(ceiling: dict[str, Any], default: dict[str, Any], asked: dict[str, Any]) -> StageResources:
    wanted = StageResources.model_validate(default | asked)
    return Ceilings.model_validate(ceiling).applied("train", wanted, asked, "policies.yaml")


@pytest.mark.parametrize(
    ("ceiling", "asked"),
    [
        ({"cpus": 4}, {"cpus": 4}),
        ({"cpus": 4}, {"cpus": 0.5, "cpu_request": 4}),
        ({"memory": "8g"}, {"memory": "8192m"}),
        ({"shm_size": "1g"}, {"shm_size": "1g"}),
        ({"ephemeral_storage": "20g"}, {"ephemeral_storage": "1g"}),
        ({"gpus": 2}, {"gpus": 2}),
        ({"gpu_kind": ["nvidia.com/gpu", "amd.com/gpu"]}, {"gpus": 1, "gpu_kind": "amd.com/gpu"}),
        ({"gpu_kind": ["nvidia.com/gpu"]}, {"gpus": 0, "gpu_kind": "amd.com/gpu"}),
        ({"node_selector": {"pool": ["cpu", "gpu"]}}, {"node_selector": {"pool": "gpu"}}),
        ({"tolerations": [GPU]}, {"tolerations": [dict(reversed(GPU.items()))]}),
        ({}, {"cpus": 512, "memory": "999g", "gpus": -1, "node_selector": {"a": "b"}, "tolerations": [GPU]}),
    ],
)
def test_what_is_within_the_ceilings_is_had(ceiling: dict[str, Any], asked: dict[str, Any]) -> None:
    assert applied(ceiling, {}, asked) == StageResources.model_validate(asked)


@pytest.mark.parametrize(
    ("ceiling", "asked", "words"),
    [
        ({"cpus": 4}, {"cpus": 4.5}, "cpus=4.5 is more than policies.yaml allows, 4"),
        ({"cpus": 4}, {"cpus": None}, "cpus=None is more than policies.yaml allows, 4"),
        ({"cpus": 4}, {"cpu_request": 5}, "cpu_request=5.0 is more than policies.yaml allows, 4"),
        ({"memory": "8g"}, {"memory": "8193m"}, "memory='8193m' is more than policies.yaml allows, 8g"),
        ({"shm_size": "1g"}, {"shm_size": "2g"}, "shm_size='2g'"),
        ({"ephemeral_storage": "20g"}, {"ephemeral_storage": "1000g"}, "ephemeral_storage='1000g'"),
        ({"gpus": 2}, {"gpus": 3}, "gpus=3 is more than policies.yaml allows, 2"),
        ({"gpus": 0}, {"gpus": 1}, "gpus=1 is more than policies.yaml allows, 0"),
        ({"gpus": 8}, {"gpus": -1}, "gpus=-1"),  # all
        ({"gpu_kind": ["nvidia.com/gpu"]}, {"gpus": 1, "gpu_kind": "amd.com/gpu"}, "gpu_kind='amd.com/gpu'"),
        ({"node_selector": {"pool": ["cpu"]}}, {"node_selector": {"pool": "gpu"}}, "allows, pool: cpu"),
        ({"node_selector": {"pool": ["cpu"]}}, {"node_selector": {"pool": "cpu", "zone": "a"}}, "allows, pool: cpu"),
        ({"node_selector": {}}, {"node_selector": {"pool": "cpu"}}, "allows, none"),
        ({"tolerations": [GPU]}, {"tolerations": [{"operator": "Exists"}]}, "tolerations="),
        ({"tolerations": []}, {"tolerations": [GPU]}, "allows, none"),
    ],
)
def test_what_is_asked_for_above_a_ceiling_is_named_with_it(
    ceiling: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        applied(ceiling, {}, asked)
    assert words in str(refused.value)
    assert str(refused.value).startswith("resources of train: ")


def test_a_default_above_a_ceiling_is_lowered_to_it() -> None:
    ceiling = {"cpus": 4, "memory": "8g", "ephemeral_storage": "20g", "gpus": 0, "shm_size": "64m"}
    default = {"memory": "16g", "shm_size": "1g", "gpus": 1, "cpu_request": 6}
    found = applied(ceiling, default, {"memory": "4g"})
    assert (found.cpus, found.memory, found.ephemeral_storage, found.gpus) == (4, "4g", "20g", 0)
    assert (found.shm_size, found.cpu_request) == ("64m", 4)


def test_a_stage_without_a_limit_asks_no_node_for_the_ceiling() -> None:
    assert applied({"cpus": 4}, {}, {}).cpu_request == 0.1
    assert applied({"cpus": 0.05}, {}, {}).cpu_request == 0.05
    assert applied({"cpus": 4}, {}, {"cpus": 2}).cpu_request is None, "as many as cpus"


def test_a_kind_of_gpu_that_nobody_asked_for_is_the_first_that_may_be_had() -> None:
    assert applied({"gpu_kind": ["nvidia.com/mig-1g.5gb"]}, {}, {"gpus": 1}).gpu_kind == "nvidia.com/mig-1g.5gb"


def test_a_stage_has_the_ceilings_of_all_but_for_its_own() -> None:
    resources = {"all": {"cpus": 4, "gpus": 0}, "train": {"gpus": 2}}
    policies = Policies.model_validate({"resources": resources})
    assert policies.ceilings_for("train") == Ceilings(cpus=4, gpus=2)
    assert policies.ceilings_for("deploy") == Ceilings(cpus=4, gpus=0)

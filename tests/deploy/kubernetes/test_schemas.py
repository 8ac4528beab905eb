"""Every object of every overlay against its official schema, and that the check finds what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from .conftest import ROOT, Manifest, manifests
from .schemas import VERSIONS, check


def test_every_object_is_what_kubernetes_takes(objects: list[Manifest]) -> None:
    assert len(objects) > 20
    for manifest in objects:
        check(manifest)


def test_the_schemas_are_of_the_newest_kubernetes_that_the_package_knows() -> None:
    assert kubernetes_validate.latest_version().startswith(VERSIONS[-1])


def one(kind: str, name: str, overlay: str = "eks-gpu") -> Manifest:
    [found] = [m for m in manifests(overlay) if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize(
    ("kind", "name", "spoil"),
    [
        ("Deployment", "mlflow", lambda m: m["spec"].update(replica=2)),
        ("Deployment", "mlflow", lambda m: m["spec"].update(replicas="two")),
        ("Deployment", "serving", lambda m: m["spec"]["template"]["spec"]["containers"][0].update(readyProbe={})),
        ("Deployment", "serving", lambda m: m["spec"]["template"]["spec"]["containers"][0]["env"].append({"nam": "x"})),
        ("HorizontalPodAutoscaler", "serving", lambda m: m["spec"].update(targetCPUUtilizationPercentage=50)),
        ("HorizontalPodAutoscaler", "serving", lambda m: m["spec"].pop("maxReplicas")),
        ("PodDisruptionBudget", "mlflow", lambda m: m["spec"].update(maxUnavailable=[1])),
        ("NetworkPolicy", "mlflow", lambda m: m["spec"]["ingress"][0].update(to=[])),
        ("Ingress", "vision-mlops", lambda m: m["spec"]["rules"][0]["http"]["paths"][0].pop("pathType")),
        ("ServiceAccount", "mlflow", lambda m: m.update(roleArn="arn:aws:iam::111122223333:role/x")),
        ("RayCluster", "ray", lambda m: m["spec"].update(headGroup={})),
        ("RayCluster", "ray", lambda m: m["spec"]["workerGroupSpecs"][0].pop("groupName")),
        ("RayCluster", "ray", lambda m: m["spec"]["workerGroupSpecs"][0].update(maxReplicas="5")),
        ("RayCluster", "ray", lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})),
        ("RayCluster", "ray", lambda m: m["spec"]["autoscalerOptions"].update(upscalingMode="Fast")),
        ("RayCluster", "ray", lambda m: m["spec"]["autoscalerOptions"]["env"].append({"name": "x", "valu": "y"})),
        ("RayCluster", "ray", lambda m: m["spec"]["headGroupSpec"]["template"]["spec"].update(container=[])),
    ],
)
def test_a_spoiled_object_is_refused(kind: str, name: str, spoil: Callable[[Manifest], Any]) -> None:
    manifest = one(kind, name)
    check(manifest)
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        check(manifest)


@pytest.mark.parametrize("version", ["autoscaling/v2beta2", "policy/v1beta1"])
def test_a_version_that_kubernetes_dropped_is_refused(version: str) -> None:
    kind = "HorizontalPodAutoscaler" if version.startswith("autoscaling") else "PodDisruptionBudget"
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check(one(kind, "mlflow") | {"apiVersion": version})


def test_rays_version_is_the_one_that_is_pinned() -> None:
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements/tune.txt").read_text(), re.M)
    assert pinned
    assert one("RayCluster", "ray")["spec"]["rayVersion"] == pinned[1]


def test_ray_scales_from_none_to_five_and_the_gpu_group_asks_for_one() -> None:
    groups = one("RayCluster", "ray")["spec"]["workerGroupSpecs"]
    assert [(g["groupName"], g["minReplicas"], g["maxReplicas"]) for g in groups] == [("cpu", 0, 5), ("gpu", 0, 5)]
    asked = [g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0) for g in groups]
    assert asked == [0, 1]


def test_no_update_takes_a_pod_of_the_service_away_before_another_is_ready() -> None:
    for name in ("serving", "mlflow"):
        deployment = one("Deployment", name)
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert "replicas" not in deployment["spec"], "the autoscaler's number"
    [container] = one("Deployment", "serving")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_mlflow_has_two_to_five_replicas() -> None:
    spec = one("HorizontalPodAutoscaler", "mlflow")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)

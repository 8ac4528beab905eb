"""Every pod of every overlay against "restricted", and that the check finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Manifest, manifests
from .pods import Pod, pods
from .restricted import problems


def test_no_pod_breaks_a_rule(objects: list[Manifest]) -> None:
    found = pods(objects)
    assert {"Deployment/mlflow", "Deployment/serving", "Job/bucket", "Job/export-onnx"} <= {pod.where for pod in found}
    assert [line for pod in found for line in problems(pod)] == []


def test_both_namespaces_refuse_what_is_not_restricted(objects: list[Manifest]) -> None:
    found = {m["metadata"]["name"]: m["metadata"]["labels"] for m in objects if m["kind"] == "Namespace"}
    assert set(found) == {"vision-mlops", "vision-mlops-stages"}
    for labels in found.values():
        assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


def mlflow() -> Pod:
    return next(pod for pod in pods(manifests("local")) if pod.where == "Deployment/mlflow")


def container(change: Callable[[dict[str, Any]], object]) -> Callable[[Pod], object]:
    return lambda pod: change(pod.spec["containers"][0])


def context(**fields: Any) -> Callable[[Pod], object]:
    return container(lambda found: found["securityContext"].update(fields))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda pod: pod.spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot is not true"),
        (lambda pod: pod.spec["securityContext"].update(runAsUser=0), "runAsUser is not the number"),
        (lambda pod: pod.spec["securityContext"].pop("seccompProfile"), "seccompProfile is not"),
        (
            lambda pod: pod.spec["securityContext"].update(seccompProfile={"type": "Unconfined"}),
            "seccompProfile is not",
        ),
        (lambda pod: pod.spec.update(hostNetwork=True), "hostNetwork is set"),
        (lambda pod: pod.spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "is of kind ['hostPath']"),
        (lambda pod: pod.spec["volumes"].append({"name": "x", "emptyDir": {}}), "volume x has no size limit"),
        (lambda pod: pod.spec.pop("volumes"), "mounts tmp, which there is not"),
        (context(allowPrivilegeEscalation=True), "allowPrivilegeEscalation is not false"),
        (context(capabilities={"drop": ["NET_RAW"]}), "does not drop all capabilities"),
        (context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "adds capabilities"),
        (context(privileged=True), "is privileged"),
        (context(runAsUser=0), "runs as root"),
        (context(seccompProfile={"type": "Unconfined"}), "seccompProfile is Unconfined"),
        (context(readOnlyRootFilesystem=False), "readOnlyRootFilesystem is not true"),
        (container(lambda found: found.pop("securityContext")), "allowPrivilegeEscalation is not false"),
        (container(lambda found: found["ports"][0].update(hostPort=80)), "has a port of the host"),
        (container(lambda found: found.update(image="vision-mlops/mlflow")), "has no tag that stays"),
        (container(lambda found: found.update(image="vision-mlops/mlflow:latest")), "has no tag that stays"),
        (container(lambda found: found.update(image="host:5000/vision-mlops/mlflow")), "has no tag that stays"),
        (container(lambda found: found["resources"].pop("limits")), "has no limit of memory"),
        (container(lambda found: found["resources"].pop("requests")), "does not say what it needs"),
        (
            lambda pod: pod.spec.update(initContainers=[{"name": "first", "image": "x:1"}]),
            "first: allowPrivilegeEscalation is not false",
        ),
    ],
)
def test_a_spoiled_pod_is_found(spoil: Callable[[Pod], object], text: str) -> None:
    pod = mlflow()
    assert problems(pod) == []
    spoil(pod)
    assert any(text in line for line in problems(pod)), problems(pod)


@pytest.mark.parametrize("image", ["vision-mlops/mlflow:dev", "host:5000/x/mlflow:1.2.3", f"x/y@sha256:{'0' * 64}"])
def test_an_image_that_stays_is_not_complained_of(image: str) -> None:
    pod = mlflow()
    pod.spec["containers"][0]["image"] = image
    assert problems(pod) == []

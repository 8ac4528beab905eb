from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from pipeline.kubernetes import reasons
from tasks.errors import PipelineError, SettingsError, UnavailableError


def pod(state: dict[str, Any] | None = None, *, phase: str = "Pending", deleted: bool = False, **status: Any) -> Any:
    """A pod as the cluster tells of it; `state` is that of the stage's container."""
    containers = []
    if state is not None:
        built = k8s.V1ContainerState(
            waiting=k8s.V1ContainerStateWaiting(**state["waiting"]) if "waiting" in state else None,
            running=k8s.V1ContainerStateRunning() if "running" in state else None,
            terminated=k8s.V1ContainerStateTerminated(**state["terminated"]) if "terminated" in state else None,
        )
        containers = [
            k8s.V1ContainerStatus(
                name="base", state=built, image="x/train:dev", image_id="", ready=False, restart_count=0
            )
        ]
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="train-1", deletion_timestamp=datetime.now(UTC) if deleted else None),
        status=k8s.V1PodStatus(phase=phase, container_statuses=containers, **status),
    )


def waiting(reason: str, message: str = "") -> Any:
    return pod({"waiting": {"reason": reason, "message": message}})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (waiting("InvalidImageName", "couldn't parse"), "no image 'x/train:dev' (InvalidImageName: couldn't parse)"),
        (waiting("ErrImageNeverPull"), "no image 'x/train:dev' (ErrImageNeverPull)"),
        (waiting("ErrImagePull", "manifest unknown"), "PIPELINE_IMAGE_TAG"),
        (waiting("ImagePullBackOff", "Error: pull access denied"), "PIPELINE_IMAGE_PREFIX"),
        (waiting("CreateContainerConfigError", 'secret "stages" not found'), "make kubernetes-up writes the Secrets"),
    ],
)
def test_what_will_never_be_there_is_for_good(found: Any, text: str) -> None:
    failure = reasons.will_never_start(found, "train")
    assert isinstance(failure, SettingsError)
    assert text in str(failure)


@pytest.mark.parametrize(
    "found",
    [
        waiting("ContainerCreating"),
        waiting("ErrImagePull", "dial tcp: i/o timeout"),
        waiting("ImagePullBackOff", 'Back-off pulling image "x/train:dev"'),
        pod({"running": {}}, phase="Running"),
        pod(),
    ],
)
def test_what_may_come_is_waited_for(found: Any) -> None:
    assert reasons.will_never_start(found, "train") is None


def test_a_pod_that_waited_too_long_says_what_for() -> None:
    scheduled = k8s.V1PodCondition(
        type="PodScheduled", status="False", reason="Unschedulable", message="0/3 nodes are available: 3 Insufficient"
    )
    text = str(reasons.did_not_start(pod(conditions=[scheduled]), "train", 60, ""))
    assert (
        "did not start within 60 s: Unschedulable: 0/3 nodes are available: 3 Insufficient; correct PIPELINE_RE" in text
    )
    assert "FailedMount: no such volume" in str(
        reasons.did_not_start(pod(), "train", 60, "FailedMount: no such volume")
    )


def terminated(code: int, why: str, said: str | None = None, *, deleted: bool = False, **status: Any) -> Any:
    state = {"terminated": {"exit_code": code, "reason": why, "message": said}}
    return pod(state, phase="Failed", deleted=deleted, **status)


@pytest.mark.parametrize(
    ("found", "kind", "text"),
    [
        (terminated(143, "Error", deleted=True), UnavailableError, "was deleted while it ran"),
        # As a kubelet tells of a pod that was deleted while it started.
        (pod({"waiting": {"reason": "ContainerCreating"}}, phase="Failed", deleted=True), UnavailableError, "deleted"),
        (pod({"waiting": {"reason": "ContainerCreating"}}, phase="Failed"), UnavailableError, "with no reason given"),
        (terminated(0, "Completed", reason="Evicted", message="low on disk"), UnavailableError, "Evicted: low on disk"),
        (terminated(137, "Error", reason="DeadlineExceeded"), PipelineError, "longer than its task allows"),
        (terminated(128, "ContainerCannotRun", "no such file"), PipelineError, "did not run (ContainerCannotRun: no"),
    ],
)
def test_an_end_that_is_not_the_stages_own_has_the_clusters_reason(found: Any, kind: type, text: str) -> None:
    failure = reasons.cut_short(found, "train")
    assert type(failure) is kind
    assert text in str(failure)


@pytest.mark.parametrize(
    "found", [terminated(1, "Error"), terminated(137, "OOMKilled"), terminated(0, "Completed", deleted=True)]
)
def test_a_stages_own_end_is_judged_by_its_exit_code(found: Any) -> None:
    assert reasons.cut_short(found, "train") is None


@pytest.mark.parametrize(
    ("status", "message", "kind", "text"),
    [
        (401, "Unauthorized", SettingsError, "refuses the login"),
        (403, 'pods is forbidden: User "x" cannot create resource "pods"', SettingsError, "stage-launcher"),
        (
            403,
            "pods is forbidden: exceeded quota: vision-mlops",
            UnavailableError,
            "the quota of namespace 'n'",
        ),
        (403, "violates PodSecurity", SettingsError, "violates PodSecurity"),
        (404, 'namespaces "n" not found', SettingsError, "make kubernetes-up"),
        (422, "Invalid value: -1", SettingsError, "did not create a pod: Invalid value"),
        (503, "apiserver not ready", UnavailableError, "status 503"),
    ],
)
def test_a_refusal_is_one_line_with_the_fix(status: int, message: str, kind: type, text: str) -> None:
    error = ApiException(status=status, reason="r")
    error.body = json.dumps({"message": message})
    failure = reasons.refused(error, "create a pod", "n")
    assert type(failure) is kind
    assert text in str(failure)


def test_a_refused_websocket_has_its_answer_in_its_text() -> None:
    body = {"message": 'pods "x" is forbidden: User "u" cannot get resource "pods/exec"'}
    text = f"Handshake status 403 Forbidden -+-+- {{'audit-id': 'a'}} -+-+- {json.dumps(body).encode()!r}"
    error = reasons.of_handshake(ApiException(status=0, reason=text))
    failure = reasons.refused(error, "run a command in a pod", "n")
    assert str(failure).startswith("not allowed to run a command in a pod in namespace 'n': pods \"x\" is forbidden")
    assert reasons.of_handshake(ApiException(status=0, reason="Handshake status 502 Bad Gateway")).status == 502
    assert reasons.of_handshake(ApiException(status=0, reason="timed out")).status == 0


def test_a_refusal_without_words_of_the_api_has_those_of_the_connection() -> None:
    error = ApiException(status=0, reason="Handshake status 403 Forbidden")
    assert "Handshake status 403" in str(reasons.refused(error, "run a command in a pod", "n"))

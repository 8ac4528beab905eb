"""What is read from pods; the cluster's own words are in tests/stack/kubernetes/test_rollout.py."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.kubernetes.rollout import obstacle

PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "mlflow:1"'}}
STARTS = {"waiting": {"reason": "ContainerCreating"}}
CRASHED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "a warning\nno database answers\n"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
NO_ROOM = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}


def pod(
    *states: dict[str, Any], last: dict[str, Any] | None = None, at: str = "2026-01-01T00:00:00Z", **fields: Any
) -> dict[str, Any]:
    """A pod named by its second, whose containers are in these states."""
    metadata = {"name": f"p{at[17:19]}", "creationTimestamp": at} | fields.pop("metadata", {})
    containers = [{"state": state, "lastState": last or {}} for state in states]
    return {"metadata": metadata, "status": {"phase": "Pending", "containerStatuses": containers} | fields}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (pod(PULL), 'ImagePullBackOff: Back-off pulling image "mlflow:1"'),
        (pod(CRASHED), "ended with code 1 (no database answers)"),
        (pod(KILLED), "ended with code 137 (OOMKilled)"),
        (pod(BACK_OFF, last=CRASHED), "CrashLoopBackOff, ended with code 1 (no database answers)"),
        (pod({"running": {}}, last=KILLED), "ended with code 137 (OOMKilled)"),
        (pod({"running": {}}, PULL), 'ImagePullBackOff: Back-off pulling image "mlflow:1"'),
        (pod(conditions=[NO_ROOM]), "Unschedulable: 0/1 nodes are available"),
    ],
)
def test_what_keeps_a_pod_is_one_line(found: dict[str, Any], words: str) -> None:
    assert obstacle([found]) == f"pod p00: {words}"


@pytest.mark.parametrize(
    "found",
    [
        pod(STARTS),
        pod({"running": {}}),
        pod(),
        pod({"running": {}}, last=CRASHED, conditions=[{"type": "Ready", "status": "True"}]),
        pod(CRASHED, metadata={"deletionTimestamp": "2026-01-01T00:00:09Z"}),
        pod({"terminated": {"exitCode": 0, "reason": "Completed"}}, phase="Succeeded"),
    ],
    ids=["starts", "runs", "says nothing yet", "ready after a crash", "leaves", "done"],
)
def test_a_pod_that_nothing_keeps_is_not_blamed(found: dict[str, Any]) -> None:
    assert obstacle([found]) == ""


def test_the_newest_pod_is_the_one_that_counts() -> None:
    older, newer = pod(CRASHED), pod(PULL, at="2026-01-01T00:00:30Z")
    assert obstacle([older, newer]).startswith("pod p30: ImagePullBackOff")
    assert obstacle([older, newer | {"status": {"phase": "Succeeded"}}]).startswith("pod p00: ended")
    assert obstacle([]) == ""

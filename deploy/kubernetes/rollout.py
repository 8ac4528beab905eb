"""Wait until an applied workload is ready, and say in one line what prevents it. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.backup_stack import last_line
from deploy.kubernetes.cluster import Cluster, ClusterError

TIMEOUT = 1500  # seconds; pulling images takes longest, and MLflow's start has twenty minutes of its own
PAUSE = 10  # seconds between two checks of what blocks a workload
TRIES = 3  # failed pods of a Job before we give up on it

Object = Mapping[str, Any]


def await_ready(cluster: Cluster, workload: str, timeout: float = TIMEOUT) -> None:
    """Wait until a workload is as it was applied; print each thing that blocks it once.

    Args:
        cluster: seen through the workload's namespace.
        workload: KIND/NAME; its pods carry the label `app.kubernetes.io/name: NAME`. A Job has to complete.
        timeout: seconds.

    Raises:
        ClusterError: it is not ready in time, or never will be; with the reason.
    """
    job = workload.startswith("job/")
    asked = ["wait", "--for=condition=complete"] if job else ["rollout", "status"]
    deadline = time.monotonic() + timeout
    told = {""}  # an image that cannot be pulled is reported as two reasons in turn
    while True:
        try:
            cluster.run(*asked, workload, f"--timeout={PAUSE}s")
            return
        except ClusterError as error:
            pods = _pods(cluster, workload)
            # A pod that nothing blocks is only starting; its warnings would be those of its first seconds.
            why = obstacle(pods) if unready(pods) else _warning(cluster, workload)
            given_up = job and sum(pod["status"].get("phase") == "Failed" for pod in pods) >= TRIES
            if given_up or "timed out" not in str(error) or time.monotonic() >= deadline:
                raise ClusterError(f"{workload} is not ready: {why or _warning(cluster, workload) or error}") from None
        if why not in told:
            print(f"  {why}", flush=True)
            told.add(why)


def blocked_by(cluster: Cluster, workload: str) -> str:
    """Say in one line why a workload (KIND/NAME) is not ready; empty when nothing is known."""
    return obstacle(_pods(cluster, workload)) or _warning(cluster, workload)


def unready(pods: Sequence[Object]) -> list[Object]:
    """Return the pods that should be ready and are not, the newest first."""

    def is_ready(pod: Object) -> bool:
        conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
        return conditions.get("Ready") == "True"

    found = [
        pod
        for pod in pods
        if not (pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") == "Succeeded" or is_ready(pod))
    ]
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


def obstacle(pods: Sequence[Object]) -> str:
    """Say why the newest pod that is not ready is not, as the cluster or the pod itself puts it; empty when unknown."""
    for pod in unready(pods):
        for condition in pod["status"].get("conditions", ()):
            if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
                return f"pod {pod['metadata']['name']}: {_reason(condition)}"
        for status in pod["status"].get("containerStatuses", ()):
            if text := _container(status):
                return f"pod {pod['metadata']['name']}: {text}"
    return ""


def _pods(cluster: Cluster, workload: str) -> list[dict[str, Any]]:
    return cluster.objects("pods", f"app.kubernetes.io/name={_name(workload)}")


def _name(workload: str) -> str:
    return workload.split("/")[1]


def _container(status: Object) -> str:
    """Say what blocks a container: what it waits for, and the last line it wrote when it ended."""
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    last = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    # The manifests put the end of the log here when a container fails.
    said = last_line(last.get("message", "").encode())
    ended = f"ended with code {last['exitCode']} ({said or last.get('reason', 'it wrote nothing')})" if last else ""
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return ended
    return f"{waiting['reason']}, {ended}" if ended else _reason(waiting)


def _reason(state: Object) -> str:
    return f"{state.get('reason', '')}: {state.get('message', '')}".strip(": ")


def _warning(cluster: Cluster, workload: str) -> str:
    """Return the newest warning on a workload or its pods: a quota or a policy refuses them, a probe fails."""
    events = [
        event
        for event in cluster.objects("events")
        if event["type"] == "Warning" and f"{event['involvedObject']['name']}-".startswith(f"{_name(workload)}-")
    ]
    newest = max(events, key=lambda event: str(event.get("lastTimestamp") or ""), default=None)
    return "" if newest is None else _reason(newest)

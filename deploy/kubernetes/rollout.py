"""Wait for what was applied, and say in one line what keeps it. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.backup_stack import last_line
from deploy.kubernetes.cluster import Cluster, ClusterError

PATIENCE = 600  # seconds; pulled images take longest
LOOK = 10  # seconds between two looks at what keeps a workload
TRIES = 3  # of a Job, before its own words are taken for the last

Object = Mapping[str, Any]


def await_ready(cluster: Cluster, workload: str, patience: float = PATIENCE) -> None:
    """Wait until a workload is as it was applied; print what keeps it, each thing once.

    Args:
        cluster: seen through the workload's namespace.
        workload: KIND/NAME; its pods carry the label `app.kubernetes.io/name: NAME`. A Job is waited for to its end.
        patience: seconds.

    Raises:
        ClusterError: it is not ready in time, or will not be; with what keeps it.
    """
    job = workload.startswith("job/")
    asked = ["wait", "--for=condition=complete"] if job else ["rollout", "status"]
    deadline = time.monotonic() + patience
    told = {""}  # an image that does not come is two things by turns
    while True:
        try:
            cluster.run(*asked, workload, f"--timeout={LOOK}s")
            return
        except ClusterError as error:
            pods = _pods(cluster, workload)
            # A pod that nothing keeps is only starting; warnings on it would be those of its first seconds.
            why = obstacle(pods) if unready(pods) else _warning(cluster, workload)
            given_up = job and sum(pod["status"].get("phase") == "Failed" for pod in pods) >= TRIES
            if given_up or "timed out" not in str(error) or time.monotonic() >= deadline:
                raise ClusterError(f"{workload} is not ready: {why or _warning(cluster, workload) or error}") from None
        if why not in told:
            print(f"  {why}", flush=True)
            told.add(why)


def keeps(cluster: Cluster, workload: str) -> str:
    """What keeps a workload (KIND/NAME) from being ready, in one line; or nothing."""
    return obstacle(_pods(cluster, workload)) or _warning(cluster, workload)


def unready(pods: Sequence[Object]) -> list[Object]:
    """Those of some pods that are to become ready and are not, the newest first."""

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
    """What keeps the newest of some pods that is not ready, in the cluster's words or the pod's own; or nothing."""
    for pod in unready(pods):
        for condition in pod["status"].get("conditions", ()):
            if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
                return f"pod {pod['metadata']['name']}: {_words(condition)}"
        for status in pod["status"].get("containerStatuses", ()):
            if text := _container(status):
                return f"pod {pod['metadata']['name']}: {text}"
    return ""


def _pods(cluster: Cluster, workload: str) -> list[dict[str, Any]]:
    return cluster.objects("pods", f"app.kubernetes.io/name={_name(workload)}")


def _name(workload: str) -> str:
    return workload.split("/")[1]


def _container(status: Object) -> str:
    """What keeps a container: what it waits for, and what it said last when it ended."""
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    last = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    # The manifests ask for the end of the log here where a container fails.
    said = last_line(last.get("message", "").encode())
    ended = f"ended with code {last['exitCode']} ({said or last.get('reason', 'it said nothing')})" if last else ""
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return ended
    return f"{waiting['reason']}, {ended}" if ended else _words(waiting)


def _words(state: Object) -> str:
    return f"{state.get('reason', '')}: {state.get('message', '')}".strip(": ")


def _warning(cluster: Cluster, workload: str) -> str:
    """The newest warning on a workload or what it made: a quota or a policy refuses its pods, a probe fails."""
    events = [
        event
        for event in cluster.objects("events")
        if event["type"] == "Warning" and f"{event['involvedObject']['name']}-".startswith(f"{_name(workload)}-")
    ]
    newest = max(events, key=lambda event: str(event.get("lastTimestamp") or ""), default=None)
    return "" if newest is None else _words(newest)

"""Why a pod did not start, or how it ended, in the cluster's own words and one line."""

from __future__ import annotations

import json
import re

from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from pipeline.kubernetes.pod import STAGE
from tasks.errors import PipelineError, SettingsError, UnavailableError

# Reasons of the kubelet for an image or a variable that will be missing on the next try too.
NEVER = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageInspect")
NOT_THERE = re.compile(r"not found|manifest unknown|does not exist|no such image|pull access denied", re.IGNORECASE)
HANDSHAKE = re.compile(r"Handshake status (?P<status>\d+)(?:.*b'(?P<body>\{.*\})')?", re.DOTALL)
ROLE = "give its account the Role `stage-launcher` (make kubernetes-up)"


def status_of(pod: k8s.V1Pod, container: str = STAGE) -> k8s.V1ContainerStatus | None:
    """Status of a container of a pod; None before there is one."""
    return next((one for one in pod.status.container_statuses or () if one.name == container), None)


def ended(pod: k8s.V1Pod, container: str = STAGE) -> k8s.V1ContainerStateTerminated | None:
    """How a container of a pod ended; None while it has not ended."""
    status = status_of(pod, container)
    return status.state.terminated if status is not None and status.state is not None else None


def over(pod: k8s.V1Pod) -> bool:
    """Tell whether the whole pod has ended. For a pod deleted at its start, kubelets report nothing else."""
    return pod.status.phase in ("Succeeded", "Failed")


def started(pod: k8s.V1Pod) -> bool:
    """Tell whether the stage's container runs, or has ended."""
    status = status_of(pod)
    state = None if status is None else status.state
    return state is not None and (state.running is not None or state.terminated is not None)


def waits_for(pod: k8s.V1Pod) -> str:
    """What a pod that has not started waits for: the text of the scheduler or the kubelet, or an empty string."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state is not None else None
        if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
    return ""


def will_never_start(pod: k8s.V1Pod, stage: str) -> SettingsError | None:
    """The error of a pod that can never start; None when it still may.

    An image that the registry does not have is permanent; a registry that does not answer is not.
    """
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state is not None else None
        if waiting is None:
            continue
        text = f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
        if waiting.reason in NEVER and "secret" in text.lower():
            return SettingsError(f"the pod of {stage} cannot start: {text}; make kubernetes-up writes the Secrets")
        if waiting.reason in NEVER or (waiting.reason in PULLING and NOT_THERE.search(waiting.message or "")):
            return SettingsError(
                f"the cluster has no image {status.image!r} ({text}); push it, or correct PIPELINE_IMAGE_PREFIX, "
                "PIPELINE_IMAGE_TAG and PIPELINE_IMAGE_DIGESTS"
            )
    return None


def did_not_start(pod: k8s.V1Pod, stage: str, seconds: float, warning: str) -> UnavailableError:
    """The error of a pod that waited too long; `warning` is the last event on it."""
    why = waits_for(pod) or warning or f"its phase is {pod.status.phase}"
    fix = "correct PIPELINE_RESOURCES" if why.startswith("Unschedulable") else "check its node and its image"
    return UnavailableError(
        f"the pod of {stage} did not start within {seconds:.0f} s: {why}; {fix}, or wait longer "
        "(PIPELINE_KUBERNETES_START_SECONDS)"
    )


def cut_short(pod: k8s.V1Pod, stage: str) -> PipelineError | None:
    """The error of a pod that the cluster or a person stopped; None for one that ended by itself."""
    text = f"{pod.status.reason}: {pod.status.message or ''}".rstrip(": ")
    if pod.status.reason == "DeadlineExceeded":
        return PipelineError(f"the pod of {stage} ran longer than its task allows ({text})")
    if pod.status.reason is not None:
        return UnavailableError(f"the cluster stopped the pod of {stage} ({text}); try again")
    state = ended(pod)
    if state is not None and state.exit_code == 0:
        return None
    if pod.metadata.deletion_timestamp is not None:
        return deleted(stage)
    if state is None and over(pod):
        return UnavailableError(f"the pod of {stage} is {pod.status.phase}, with no reason given; try again")
    if state is not None and state.reason in ("ContainerCannotRun", "StartError", "ContainerStatusUnknown"):
        return PipelineError(f"the container of {stage} did not run ({state.reason}: {state.message})")
    return None


def deleted(stage: str) -> UnavailableError:
    """The error of a pod that was deleted."""
    return UnavailableError(f"the pod of {stage} was deleted while it ran; try again")


def refused(error: ApiException, doing: str, namespace: str) -> PipelineError:
    """Turn the API server's refusal into one line with the fix.

    Args:
        error: its answer.
        doing: what was attempted, such as "create a pod".
        namespace: where.
    """
    text = _message(error)
    if error.status == 401:
        return SettingsError(f"the cluster refuses the login ({text}); correct KUBECONFIG or the connection in Airflow")
    if error.status == 403 and "exceeded quota" in text:
        return UnavailableError(f"cannot {doing}, the quota of namespace {namespace!r} is used up: {text}")
    if error.status == 403 and "cannot" in text:
        return SettingsError(f"not allowed to {doing} in namespace {namespace!r}: {text}; {ROLE}")
    if error.status == 404 and "namespaces" in text:
        return SettingsError(f"{text}; run make kubernetes-up, or correct PIPELINE_KUBERNETES_NAMESPACE")
    if error.status in (400, 403, 404, 422):
        return SettingsError(f"the cluster did not {doing}: {text}")
    return UnavailableError(f"the cluster did not {doing} (status {error.status}): {text}")


def of_handshake(error: ApiException) -> ApiException:
    """The answer of a refused websocket as that of any other request: its status and body are only in the text."""
    found = HANDSHAKE.search(str(error.reason))
    if found is None:
        return error
    answer = ApiException(status=int(found["status"]), reason=error.reason)
    answer.body = found["body"].encode().decode("unicode_escape") if found["body"] else None
    return answer


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error.body)

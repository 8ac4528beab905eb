"""What keeps a pod from the pod security standard "restricted", and from what this project asks beyond it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .pods import Pod

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
TAGGED = re.compile(r"^[^:@]+(:[0-9]+/[^:@]+)?:(?!latest$)[\w][\w.-]*(@sha256:[0-9a-f]{64})?$|@sha256:[0-9a-f]{64}$")


def problems(pod: Pod) -> list[str]:
    """One line for each rule that the pod breaks."""
    return [f"{pod.where}: {line}" for line in (*_of_the_pod(pod.spec), *_of_containers(pod))]


def _of_the_pod(spec: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is of kind {sorted(kinds - VOLUMES)}"
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']} has no size limit"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not context.get("runAsUser"):
        yield "runAsUser is not the number of a user"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    if context.get("sysctls"):
        yield "sysctls are set"


def _of_containers(pod: Pod) -> Iterator[str]:
    mounted = {volume["name"] for volume in pod.spec.get("volumes", [])}
    for container in pod.containers():
        name, context = container["name"], container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation is not false"
        if context.get("privileged"):
            yield f"{name}: is privileged"
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: does not drop all capabilities"
        if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name}: adds capabilities"
        if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
            yield f"{name}: runs as root"
        if context.get("seccompProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
            yield f"{name}: seccompProfile is Unconfined"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{name}: has a port of the host"
        # Beyond the standard.
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem is not true"
        if not TAGGED.search(container["image"]):
            yield f"{name}: image {container['image']} has no tag that stays"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{name}: has no limit of memory"
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get("requests", {})):
            yield f"{name}: does not say what it needs"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in mounted | {"data"}:  # data: of a StatefulSet's claim
                yield f"{name}: mounts {mount['name']}, which there is not"

"""Manifests against the official OpenAPI schemas of Kubernetes, and RayCluster against what its reference says.

KubeRay's own schema is in no package here, and is not copied: `RAY_CLUSTER` states the fields that the API reference
of KubeRay 1.7 lists for ray.io/v1, strictly; pod templates, environments and security contexts are Kubernetes' own.
"""

from __future__ import annotations

import functools
from typing import Any

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils

from .conftest import Manifest
from .pods import templates

VERSIONS = ("1.25", "1.37")  # the oldest that docs/kubernetes.md promises, and the newest there is
TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}

# It reads the definitions of a version, megabytes of JSON, for every object that it looks at.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def _strict(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


_OBJECT: dict[str, Any] = {"type": "object"}
_WORDS = {"type": "object", "additionalProperties": TEXT}  # what a YAML number or truth value would break
_GROUP = {"rayStartParams": _WORDS, "template": _OBJECT, "resources": _WORDS, "labels": _WORDS}
RAY_CLUSTER = _strict(
    ["headGroupSpec"],
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=TEXT,
    enableInTreeAutoscaling=FLAG,
    headServiceAnnotations=_WORDS,
    gcsFaultToleranceOptions=_OBJECT,
    upgradeStrategy=_OBJECT,
    authOptions=_strict(mode={"enum": ["disabled", "token"]}, enableK8sTokenAuth=FLAG, secretName=TEXT),
    autoscalerOptions=_strict(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=NUMBER,
        image=TEXT,
        imagePullPolicy=TEXT,
        env={"type": "array"},
        envFrom={"type": "array"},
        resources=_OBJECT,
        securityContext=_OBJECT,
        volumeMounts={"type": "array"},
    ),
    headGroupSpec=_strict(
        ["template"],
        **_GROUP,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        headService=_OBJECT,
        enableIngress=FLAG,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _strict(
            ["groupName", "minReplicas", "maxReplicas", "template"],
            **_GROUP,
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            numOfHosts=NUMBER,
            idleTimeoutSeconds=NUMBER,
            suspend=FLAG,
            scaleStrategy=_OBJECT,
        ),
    },
)


def check(manifest: Manifest) -> None:
    """See that an object is one that each of VERSIONS takes; unknown fields are errors.

    Raises:
        jsonschema.ValidationError: naming the field.
        kubernetes_validate.SchemaNotFoundError: there is no such kind.
    """
    if manifest["apiVersion"] != "ray.io/v1":
        _validate(manifest)
        return
    assert manifest["kind"] == "RayCluster"
    jsonschema.Draft202012Validator(RAY_CLUSTER).validate(manifest["spec"])
    options = manifest["spec"]["autoscalerOptions"]
    named = {key: options[key] for key in ("env", "resources", "securityContext", "volumeMounts") if key in options}
    pod_of({"containers": [{"name": "autoscaler", "image": "x", **named}]})
    for _, template in templates(manifest):
        pod_of(template["spec"])


def pod_of(spec: dict[str, Any]) -> None:
    """See that a pod's spec is one that Kubernetes takes."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    _validate(pod)


def _validate(manifest: Manifest) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)

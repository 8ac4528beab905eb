"""The pods that manifests describe, whatever kind of object describes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .conftest import Manifest


@dataclass(frozen=True)
class Pod:
    """A pod template and where it stands."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]

    def containers(self) -> Iterator[dict[str, Any]]:
        """All of its containers, those of its start included."""
        yield from self.spec["containers"]
        yield from self.spec.get("initContainers", [])


def templates(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """Pod templates of an object: where, and the template."""
    name, spec = f"{manifest['kind']}/{manifest['metadata']['name']}", manifest.get("spec", {})
    if manifest["kind"] == "RayCluster":
        groups = [("head", spec["headGroupSpec"]), *((g["groupName"], g) for g in spec["workerGroupSpecs"])]
        return [(f"{name}/{group}", found["template"]) for group, found in groups]
    return [(name, spec["template"])] if "template" in spec else []


def pods(manifests: list[Manifest]) -> list[Pod]:
    """Every pod that these manifests may lead to."""
    found = []
    for manifest in manifests:
        for where, template in templates(manifest):
            found.append(Pod(where, template["metadata"]["labels"], template["spec"]))
        if manifest["kind"] == "RayCluster":
            # The operator adds the autoscaler to the head, with what autoscalerOptions say of it.
            options = manifest["spec"]["autoscalerOptions"]
            sidecar = {"name": "autoscaler", **{k: options[k] for k in ("env", "resources", "securityContext")}}
            head = found[-len(templates(manifest))]
            head.spec["containers"].append(sidecar | {"image": head.spec["containers"][0]["image"]})
    return found

"""An overlay as manifests, with the wanted images and namespace; kubectl renders them, there are no templates."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.kubernetes.cluster import NAMESPACE, Cluster
from deploy.kubernetes.secret_manifests import folder_of

IMAGES = ("mlflow", "serving", "train", "tune")  # in the manifests: vision-mlops/NAME:dev


def in_namespace(namespace: str) -> dict[str, object]:
    """Return `base/in-one-namespace.yaml` for another namespace."""
    return {
        "apiVersion": "builtin",
        "kind": "NamespaceTransformer",
        "metadata": {"name": "in-one-namespace", "namespace": namespace},
        "setRoleBindingSubjects": "allServiceAccounts",
        "fieldSpecs": [
            {"path": "metadata/namespace", "create": True},
            {"path": "metadata/name", "kind": "Namespace", "create": True},
        ],
    }


def kustomization(overlay: str, values: Mapping[str, str], namespace: str, where: Path) -> dict[str, object]:
    """Return a kustomization on top of an overlay: namespace, PIPELINE_IMAGE_PREFIX and PIPELINE_IMAGE_TAG of `.env`.

    Args:
        overlay: name of a folder in `overlays`, or the path of one.
        values: of `.env`.
        namespace: of every object.
        where: folder of the kustomization; paths in it are relative.
    """
    prefix, tag = values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops", values.get("PIPELINE_IMAGE_TAG") or "dev"
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "transformers": [json.dumps(in_namespace(namespace))],
        "resources": [os.path.relpath(folder_of(overlay), where)],
        "images": [{"name": f"vision-mlops/{name}", "newName": f"{prefix}/{name}", "newTag": tag} for name in IMAGES],
        "configMapGenerator": [
            {
                "name": "settings",
                "behavior": "merge",
                # Airflow starts stages from the same images.
                "literals": [f"PIPELINE_IMAGE_PREFIX={prefix}", f"PIPELINE_IMAGE_TAG={tag}"],
                "options": {"disableNameSuffixHash": True},
            }
        ],
    }


def render(overlay: str, values: Mapping[str, str], namespace: str = NAMESPACE) -> str:
    """Return the manifests of an overlay, as YAML.

    Raises:
        ClusterError: there is no such overlay, or kubectl cannot render it.
    """
    with tempfile.TemporaryDirectory() as name:
        where = Path(name).resolve()  # kustomize compares paths without links
        text = json.dumps(kustomization(overlay, values, namespace, where))  # JSON is YAML
        (where / "kustomization.yaml").write_text(text, encoding="utf-8")
        return Cluster(namespace).run("kustomize", str(where))

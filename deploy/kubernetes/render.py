"""An overlay as manifests, with the wanted images and namespace; kubectl renders them, there are no templates."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import CONFIG
from deploy.kubernetes.cluster import NAMESPACE, Cluster, ClusterError
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
    """Return a kustomization on top of an overlay: the namespace, and our images as `.env` names them.

    Args:
        overlay: name of a folder in `overlays`, or the path of one.
        values: of `.env`.
        namespace: of every object.
        where: folder of the kustomization; paths in it are relative.

    Raises:
        ClusterError: PIPELINE_IMAGE_DIGESTS is not a JSON object.
    """
    digests = image_digests(values)
    prefix, tag = values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops", values.get("PIPELINE_IMAGE_TAG") or "dev"
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "transformers": [json.dumps(in_namespace(namespace))],
        "resources": [os.path.relpath(folder_of(overlay), where)],
        "images": [
            {"name": f"vision-mlops/{name}", "newName": f"{prefix}/{name}"}
            | ({"digest": digests[name]} if name in digests else {"newTag": tag})
            for name in IMAGES
        ],
        "configMapGenerator": [
            {
                "name": "settings",
                "behavior": "merge",
                # Airflow starts stages from the same images.
                "literals": [
                    f"PIPELINE_IMAGE_PREFIX={prefix}",
                    f"PIPELINE_IMAGE_TAG={tag}",
                    *([f"PIPELINE_IMAGE_DIGESTS={json.dumps(digests)}"] if digests else []),
                ],
                "options": {"disableNameSuffixHash": True},
            }
        ],
    }


def image_digests(values: Mapping[str, str]) -> dict[str, str]:
    """Return PIPELINE_IMAGE_DIGESTS: the digest of each image that has one, in place of its tag.

    Raises:
        ClusterError: it is not a JSON object.
    """
    text = values.get("PIPELINE_IMAGE_DIGESTS") or "{}"
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise ClusterError(
            f"PIPELINE_IMAGE_DIGESTS={text} is not a JSON object; make image-digests prints it", CONFIG
        ) from None


def render(overlay: str, values: Mapping[str, str], namespace: str = NAMESPACE) -> str:
    """Return the manifests of an overlay, as YAML.

    Raises:
        ClusterError: there is no such overlay, or kubectl cannot render it; PIPELINE_IMAGE_DIGESTS is malformed.
    """
    with tempfile.TemporaryDirectory() as name:
        where = Path(name).resolve()  # kustomize compares paths without links
        text = json.dumps(kustomization(overlay, values, namespace, where))  # JSON is YAML
        (where / "kustomization.yaml").write_text(text, encoding="utf-8")
        return Cluster(namespace).run("kustomize", str(where))

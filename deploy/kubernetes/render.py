"""An overlay as manifests, with the wanted images and namespaces; kubectl renders them, there are no templates."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import CONFIG
from deploy.kubernetes.cluster import NAMESPACE, Cluster, ClusterError, stages_of
from deploy.kubernetes.secret_manifests import folder_of

IMAGES = ("mlflow", "serving", "train", "tune")  # in the manifests: vision-mlops/NAME:dev


# Settings with the address of a service, which pods of both namespaces read.
ADDRESSES = (
    "PIPELINE_STAGE_MLFLOW_TRACKING_URI",
    "PIPELINE_STAGE_SERVING_URL",
    "PIPELINE_STAGE_AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT_URL",
    "TUNE_STORAGE_ENDPOINT_URL",
    "RAY_ADDRESS",
)
# A name without a dot is a service of the pod's own namespace.
SHORT = re.compile(rf"^(  (?:{'|'.join(ADDRESSES)}): (?:https?://)?)([a-z][a-z0-9-]*)(?=:\d|/|$)", re.MULTILINE)
ALLOWED_HOSTS = re.compile(r"^(  MLFLOW_SERVER_ALLOWED_HOSTS: [^\s'\"]+)$", re.MULTILINE)
# Who is in which namespace, in a NetworkPolicy.
NAMED = re.compile(rf"^( +kubernetes\.io/metadata\.name: ){NAMESPACE}(?=$|-stages$)", re.MULTILINE)


def in_namespaces(namespace: str) -> list[str]:
    """Return the transformers that put every object into a platform's namespace, and those of stages into theirs."""
    platform = {
        "apiVersion": "builtin",
        "kind": "NamespaceTransformer",
        "metadata": {"name": "in-one-namespace", "namespace": namespace},
        "setRoleBindingSubjects": "allServiceAccounts",
        "fieldSpecs": [
            {"path": "metadata/namespace", "create": True},
            {"path": "metadata/name", "kind": "Namespace", "create": True},
        ],
    }
    stages = {
        "apiVersion": "builtin",
        "kind": "PatchTransformer",
        "metadata": {"name": "stages-in-theirs"},
        "target": {"labelSelector": "vision-mlops/namespace=stages"},
        "patch": json.dumps([{"op": "replace", "path": "/metadata/namespace", "value": stages_of(namespace)}]),
    }
    return [json.dumps(platform), json.dumps(stages)]


def kustomization(overlay: str, values: Mapping[str, str], namespace: str, where: Path) -> dict[str, object]:
    """Return a kustomization on top of an overlay: the namespace, and our images as `.env` names them.

    Args:
        overlay: name of a folder in `overlays`, or the path of one.
        values: of `.env`.
        namespace: of the platform.
        where: folder of the kustomization; paths in it are relative.

    Raises:
        ClusterError: PIPELINE_IMAGE_DIGESTS is not a JSON object.
    """
    digests = image_digests(values)
    prefix, tag = values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops", values.get("PIPELINE_IMAGE_TAG") or "dev"
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "transformers": in_namespaces(namespace),
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
                    f"PIPELINE_KUBERNETES_NAMESPACE={stages_of(namespace)}",
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
        return across_namespaces(Cluster(namespace).run("kustomize", str(where)), namespace)


def across_namespaces(manifests: str, namespace: str) -> str:
    """Return manifests whose stages are in another namespace than what they reach.

    That namespace is added, a copy of the platform's with its labels; network policies name both; and addresses in the
    settings, such as http://mlflow:5000, get the namespace, so that those of an overlay of your own work as they are.
    """
    [own] = [part for part in manifests.split("\n---\n") if "\nkind: Namespace\n" in f"\n{part}"]
    theirs = own.replace(f"\n  name: {namespace}", f"\n  name: {stages_of(namespace)}").strip("\n")
    text = SHORT.sub(rf"\1\2.{namespace}", f"{theirs}\n---\n{manifests}")
    text = ALLOWED_HOSTS.sub(rf"\1,mlflow.{namespace},mlflow.{namespace}:5000", text)
    return NAMED.sub(rf"\g<1>{namespace}", text)

"""Apply an overlay to the cluster of the current kubectl context and wait until it is healthy. Safe to run again.

Order: namespaces, Secrets, everything else, once the store is ready the Job that creates the bucket, and once MLflow is
ready the Job that exports a champion of an earlier release. Workloads that read a changed setting or Secret are
restarted, pod by pod. Neither that Job nor the service is waited for: the service is ready when there is a champion
that it can run. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

from deploy.kubernetes import move_stages
from deploy.kubernetes.cluster import BEFORE, Cluster, ClusterError
from deploy.kubernetes.render import render
from deploy.kubernetes.rollout import await_ready
from deploy.kubernetes.secret_manifests import manifest, secrets_of, settings_of

OURS = "app.kubernetes.io/part-of=vision-mlops"
AIRFLOW = "release=airflow"  # a label of its chart
BUCKET, EXPORT = "bucket", "export-onnx"  # Jobs
KUBERAY = "rayclusters.ray.io"


def up(cluster: Cluster, overlay: str, values: Mapping[str, str]) -> None:
    """Apply an overlay and wait.

    Raises:
        ClusterError: says what is wrong, in one line.
    """
    secrets = manifest(secrets_of(values, settings_of(overlay)), cluster.namespace)
    manifests = render(overlay, values, cluster.namespace)
    _require_kuberay(cluster, manifests)
    move_stages.require_none_running(cluster)
    bucket, export = _one(manifests, "Job", BUCKET), _one(manifests, "Job", EXPORT)
    for name in (cluster.namespace, cluster.stages().namespace):
        cluster.apply(_one(manifests, "Namespace", name))
    before = _digests(cluster)
    cluster.apply(secrets)
    # A Job's template cannot be edited, and both change nothing where their work is done.
    cluster.run("delete", "job", BUCKET, EXPORT, "--ignore-not-found")
    cluster.apply(manifests.replace(bucket, "").replace(export, ""))
    move_stages.finish(cluster)
    after = _digests(cluster)
    if changed := sorted(name for name in before if after.get(name) != before[name]):
        print(f"changed: {', '.join(changed)}; restarting the workloads that read them", flush=True)
        readers = _workloads(cluster, "deployments", OURS) + _workloads(cluster, "deployments,statefulsets", AIRFLOW)
        cluster.run("rollout", "restart", *readers)
    _await(cluster, *_workloads(cluster, "statefulsets", OURS))
    cluster.apply(bucket)
    _await(cluster, f"job/{BUCKET}", "deployment/mlflow")
    cluster.apply(export)
    if any(BEFORE in one["metadata"].get("annotations", {}) for one in cluster.objects("deployments", OURS)):
        raise ClusterError("a restore stopped MLflow and did not finish; run make kubernetes-restore again")


def _await(cluster: Cluster, *workloads: str) -> None:
    for workload in workloads:
        print(f"waiting for {workload}", flush=True)
        await_ready(cluster, workload)


def _one(manifests: str, kind: str, name: str) -> str:
    """Return a manifest that is applied separately."""
    parts = [f"\n{part}\n" for part in manifests.split("\n---\n")]
    return next(p[1:-1] for p in parts if f"\nkind: {kind}\n" in p and f"\n  name: {name}\n" in p)


def _require_kuberay(cluster: Cluster, manifests: str) -> None:
    if "\nkind: RayCluster\n" not in manifests:
        return
    try:
        cluster.run("get", "customresourcedefinition", KUBERAY)
    except ClusterError as error:
        raise ClusterError(
            f"the cluster does not know RayCluster ({error}); install the KubeRay operator (docs/kubernetes.md), "
            "or choose an overlay without Ray"
        ) from None


def _workloads(cluster: Cluster, kinds: str, selector: str) -> list[str]:
    """Return the workloads of some kinds, as kubectl takes them: KIND/NAME."""
    return [f"{found['kind'].lower()}/{found['metadata']['name']}" for found in cluster.objects(kinds, selector)]


def _digests(cluster: Cluster) -> dict[str, str]:
    """Return a digest of the content of each of our Secrets and ConfigMaps in the cluster."""
    return {
        f"{found['kind']} {found['metadata']['name']}": sha256(json.dumps(found.get("data")).encode()).hexdigest()
        for found in cluster.objects("secrets,configmaps", OURS)
    }

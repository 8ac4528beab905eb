"""Put an overlay into the cluster of the current kubectl context and wait until it is healthy. Safe to run again.

    python -m deploy.kubernetes.up --overlay local [--namespace NAME] [--env-file FILE]

Order: namespace, Secrets, the rest, and when the store is there the Job that makes the bucket. What reads a setting or
a Secret that changed is restarted, pod by pod. The service is not waited for: it is ready when there is a champion.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from deploy.kubernetes.cluster import BEFORE, NAMESPACE, Cluster, ClusterError
from deploy.kubernetes.render import render
from deploy.kubernetes.rollout import await_ready
from deploy.kubernetes.secret_manifests import ROOT, manifest, secrets_of, settings_of, values_of

OURS = "app.kubernetes.io/part-of=vision-mlops"
AIRFLOW = "release=airflow"  # by its chart's label
KUBERAY = "rayclusters.ray.io"


def up(cluster: Cluster, overlay: str, values: Mapping[str, str]) -> None:
    """Apply an overlay and wait.

    Raises:
        ClusterError: naming what is wrong, in one line.
    """
    secrets = manifest(secrets_of(values, settings_of(overlay)))
    manifests = render(overlay, values, cluster.namespace)
    _require_kuberay(cluster, manifests)
    namespace, bucket = _of_kind(manifests, "Namespace"), _of_kind(manifests, "Job")
    cluster.apply(namespace)
    before = _digests(cluster)
    cluster.apply(secrets)
    # A Job's template cannot be edited, and making a bucket that is there changes nothing.
    cluster.run("delete", "job", "bucket", "--ignore-not-found")
    cluster.apply(manifests.replace(bucket, ""))
    after = _digests(cluster)
    if changed := sorted(name for name in before if after.get(name) != before[name]):
        print(f"changed: {', '.join(changed)}; restarting what reads them", flush=True)
        readers = _workloads(cluster, "deployments", OURS) + _workloads(cluster, "deployments,statefulsets", AIRFLOW)
        cluster.run("rollout", "restart", *readers)
    _await(cluster, *_workloads(cluster, "statefulsets", OURS))
    cluster.apply(bucket)
    _await(cluster, "job/bucket", "deployment/mlflow")
    if any(BEFORE in one["metadata"].get("annotations", {}) for one in cluster.objects("deployments", OURS)):
        raise ClusterError("a restore stopped MLflow and did not end; run make kubernetes-restore again")


def _await(cluster: Cluster, *workloads: str) -> None:
    for workload in workloads:
        print(f"waiting for {workload}", flush=True)
        await_ready(cluster, workload)


def _of_kind(manifests: str, kind: str) -> str:
    """The one manifest of a kind that does not go with the rest."""
    return next(part for part in manifests.split("\n---\n") if f"\nkind: {kind}\n" in f"\n{part}")


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
    """Workloads of some kinds, as kubectl takes them: KIND/NAME."""
    return [f"{found['kind'].lower()}/{found['metadata']['name']}" for found in cluster.objects(kinds, selector)]


def _digests(cluster: Cluster) -> dict[str, str]:
    """Digest of what each Secret and ConfigMap of ours holds in the cluster."""
    return {
        f"{found['kind']} {found['metadata']['name']}": sha256(json.dumps(found.get("data")).encode()).hexdigest()
        for found in cluster.objects("secrets,configmaps", OURS)
    }


def main(arguments: Sequence[str]) -> int:
    """Put it up; an exit code."""
    parser = argparse.ArgumentParser(prog="deploy.kubernetes.up", description="Put an overlay into the cluster.")
    parser.add_argument("--overlay", default="local")
    parser.add_argument("--namespace", default=NAMESPACE)
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        up(Cluster(given.namespace), given.overlay, values_of(given.env_file))
    except ClusterError as error:
        print(f"kubernetes-up: {error}", file=sys.stderr)
        return error.code
    print(f"{given.overlay} is up in namespace {given.namespace} after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

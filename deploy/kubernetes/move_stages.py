"""Move the stages of an installation from the platform's namespace, where earlier releases ran them, into their own.

`up` calls this each time; where there is nothing of an earlier release, it changes nothing. Standard library only.
"""

from __future__ import annotations

import json

from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.leftover_pods import STAGES

ACCOUNT = "stage"
OF_EARLIER_RELEASES = (
    "rolebinding/stage-launcher",
    "role/stage-launcher",
    "networkpolicy/stage",
    "networkpolicy/tune-joins-ray",
    "secret/stages",
    f"serviceaccount/{ACCOUNT}",
)


def require_none_running(cluster: Cluster) -> None:
    """Require that no stage runs in the platform's namespace: it would lose its rights, and Airflow its pod.

    Raises:
        ClusterError: one does; the text says what to do.
    """
    running = sorted(
        pod["metadata"]["name"]
        for pod in cluster.objects("pods", STAGES)
        if pod["status"].get("phase") in ("Pending", "Running")
    )
    if running:
        raise ClusterError(
            f"stages run in namespace {cluster.namespace}, such as {running[0]}, and this release runs them in "
            f"{cluster.stages().namespace}; pause the DAGs and try again when they have ended, or end them: "
            f"kubectl -n {cluster.namespace} delete pods -l {STAGES}"
        )


def finish(cluster: Cluster) -> None:
    """Take the account's image pull secrets along, and remove what let Airflow's tasks run stages there."""
    account = json.loads(_get(cluster, f"serviceaccount/{ACCOUNT}") or "{}")
    if names := [one["name"] for one in account.get("imagePullSecrets", ())]:
        for name in names:
            if found := json.loads(_get(cluster, f"secret/{name}") or "{}"):
                metadata = {"name": name, "namespace": cluster.stages().namespace}
                kept = {key: found[key] for key in ("apiVersion", "kind", "type", "data")}
                cluster.apply(json.dumps(kept | {"metadata": metadata}))
        patch = json.dumps({"imagePullSecrets": [{"name": name} for name in names]})
        cluster.stages().run("patch", "serviceaccount", ACCOUNT, "--type", "merge", "--patch", patch)
    removed = cluster.run("delete", *OF_EARLIER_RELEASES, "--ignore-not-found")
    if removed.strip():
        print(
            f"stages run in namespace {cluster.stages().namespace} from now on; where Airflow is in the cluster, run "
            "make kubernetes-airflow, which takes away rights that it no longer needs",
            flush=True,
        )


def _get(cluster: Cluster, name: str) -> str:
    return cluster.run("get", name, "--ignore-not-found", "--output", "json")

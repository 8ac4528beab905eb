"""Stage pods left behind.

The cluster itself ends a pod that runs too long (`activeDeadlineSeconds`), but keeps its entry. Standard library and
kubectl only.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.leftover_stages import Leftover, Place

STAGES = "app.kubernetes.io/name=stage"


def stages(cluster: Cluster) -> list[Leftover]:
    """List the stages' pods, running or not; not those that are being removed.

    They are in the namespace of the platform's stages; earlier releases ran them in the platform's own.

    Raises:
        ClusterError: the cluster does not answer.
    """
    try:
        found = [pod for one in (cluster.stages(), cluster) for pod in one.objects("pods", STAGES)]
    except ClusterError as error:
        raise ClusterError(f"{error}; set KUBECONFIG, or NAMESPACE") from error
    return [
        Leftover(
            id=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
            name=pod["metadata"]["name"],
            key=pod["metadata"].get("annotations", {}).get("pipeline.key", "of an unknown task"),
            state=pod["status"]["phase"],
            created=datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00")),
        )
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
    ]


def remove(pod: Leftover) -> None:
    """Ask the cluster to end and remove a pod.

    Raises:
        ClusterError: the cluster does not answer, or refuses.
    """
    namespace, _, name = pod.id.partition("/")
    Cluster(namespace).run("delete", "pod", name, "--ignore-not-found", "--wait=false")


def place(cluster: Cluster) -> Place:
    """Return the stages of a platform's namespace as a place to clean up."""
    return Place("pods", f"in namespace {cluster.stages().namespace}", partial(stages, cluster), remove)

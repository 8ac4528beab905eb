"""Stage pods that nobody removed: `python -m deploy.kubernetes.leftover_pods [--days 7] [--apply]`.

One that ran too long has been ended by the cluster (`activeDeadlineSeconds`); its entry is left. Standard library and
kubectl only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from deploy import leftover_stages
from deploy.kubernetes.cluster import NAMESPACE, Cluster, ClusterError
from deploy.leftover_stages import Leftover, Place

STAGES = "app.kubernetes.io/name=stage"


def stages(cluster: Cluster) -> list[Leftover]:
    """List the stages' pods of a namespace, running or not; not those that are being removed.

    Raises:
        OSError: the cluster does not answer.
    """
    try:
        found = cluster.objects("pods", STAGES)
    except ClusterError as error:
        raise OSError(f"{error}; set KUBECONFIG, or NAMESPACE") from error
    return [
        Leftover(
            id=pod["metadata"]["name"],
            name=pod["metadata"]["name"],
            key=pod["metadata"].get("annotations", {}).get("pipeline.key", "of an unknown task"),
            state=pod["status"]["phase"],
            created=datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00")),
        )
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
    ]


def remove(cluster: Cluster, pod: Leftover) -> None:
    """Have a pod ended and removed.

    Raises:
        OSError: the cluster does not answer, or refuses.
    """
    try:
        cluster.run("delete", "pod", pod.id, "--ignore-not-found", "--wait=false")
    except ClusterError as error:
        raise OSError(str(error)) from error


def main(arguments: Sequence[str]) -> int:
    """List or remove; 0, or 69 where no cluster answers."""
    cluster = Cluster(os.environ.get("PIPELINE_KUBERNETES_NAMESPACE") or NAMESPACE)
    place = Place("pods", f"in namespace {cluster.namespace}", partial(stages, cluster), partial(remove, cluster))
    return leftover_stages.main("deploy.kubernetes.leftover_pods", place, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

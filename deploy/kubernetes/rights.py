"""Whether Airflow's tasks have rights that they do not need, such as those that the chart gave them earlier.

Standard library only.
"""

from __future__ import annotations

import json

from deploy.kubernetes.cluster import Cluster, ClusterError

ACCOUNT = "airflow-worker"
# What opens the platform's pods and Secrets: verb, resource, subresource.
OPENERS = (("create", "pods", ""), ("create", "pods", "exec"), ("get", "pods", "exec"), ("get", "secrets", ""))


def excess(cluster: Cluster) -> list[str]:
    """Return what the account of Airflow's tasks may do in the platform's namespace, such as `create pods/exec`.

    Raises:
        ClusterError: this kubeconfig may not ask.
    """
    return [
        f"{verb} {resource}/{sub}".rstrip("/")
        for verb, resource, sub in OPENERS
        if _allowed(cluster, {"verb": verb, "resource": resource, "subresource": sub})
    ]


def _allowed(cluster: Cluster, wanted: dict[str, str]) -> bool:
    accounts = ["system:serviceaccounts", f"system:serviceaccounts:{cluster.namespace}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{cluster.namespace}:{ACCOUNT}",
            "groups": accounts,
            "resourceAttributes": {"namespace": cluster.namespace, **wanted},
        },
    }
    said = cluster.run("create", "--filename", "-", "--output", "json", text=json.dumps(review))
    try:
        return bool(json.loads(said)["status"]["allowed"])
    except (ValueError, KeyError):
        raise ClusterError(f"the cluster did not say what {ACCOUNT} may do: {said[:200]!r}") from None

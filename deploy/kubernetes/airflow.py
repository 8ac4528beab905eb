"""Install or upgrade Airflow by its official Helm chart, with `airflow-values.yaml` and what differs per cluster.

helm checks the values against the chart's own schema before it changes anything. Safe to run again. Standard library
only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import DeployError
from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.roles import AIRFLOW

VALUES = Path(__file__).resolve().with_name("airflow-values.yaml")
RELEASE = "airflow"  # prefix of its services and accounts; the NetworkPolicies and the Ingress use them
VERSION = "1.22.0"
# Parts whose pods read or write task logs in the bucket.
WITH_ROLE = ("apiServer", "scheduler", "triggerer", "workers")


def helm(
    values: Mapping[str, str], settings: Mapping[str, str], *, namespace: str, repository: str, ref: str, chart: str
) -> list[str]:
    """Return the helm command.

    Args:
        values: of `.env`; PIPELINE_IMAGE_PREFIX and PIPELINE_IMAGE_TAG are used.
        settings: of the overlay; AIRFLOW_ROLE_ARN is used, where set.
        namespace: the one of the other workloads.
        repository: Git address of the DAG files; empty means the one in the values.
        ref: its branch, tag or commit; the images should be built from the same.
        chart: its name in a repository that helm knows, or a file.
    """
    prefix, tag = values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops", values.get("PIPELINE_IMAGE_TAG") or "dev"
    given: dict[str, str] = {}
    for image in ("airflow", "pod_template"):
        given |= {f"images.{image}.repository": f"{prefix}/airflow", f"images.{image}.tag": tag}
    if repository:
        given["dags.gitSync.repo"] = repository
    if ref:
        given["dags.gitSync.ref"] = ref
    if role := settings.get(AIRFLOW.setting):
        given |= {rf"{part}.serviceAccount.annotations.eks\.amazonaws\.com/role-arn": role for part in WITH_ROLE}
    command = ["helm", "upgrade", "--install", RELEASE, chart, "--version", VERSION]
    command += ["--namespace", namespace, "--values", str(VALUES)]
    for name, value in given.items():
        command += ["--set-string", f"{name}={value}"]
    return command


def require_roles(cluster: Cluster) -> None:
    """Require the Roles by which Airflow starts its tasks and stages; the chart's are turned off.

    Raises:
        ClusterError: they are not there.
    """
    for where, role in ((cluster, "task-launcher"), (cluster.stages(), "stage-launcher")):
        if not where.run("get", "role", role, "--ignore-not-found", "--output", "name"):
            raise ClusterError(f"namespace {where.namespace} has no Role {role}; run make kubernetes-up first")


def install(command: list[str]) -> int:
    """Run helm and return its exit code.

    Raises:
        DeployError: helm is not installed.
    """
    try:
        return subprocess.run(command).returncode  # noqa: S603  # helm, with arguments of ours
    except FileNotFoundError:
        raise DeployError("helm is not installed; install it, version 3.19 or later") from None

"""Install or upgrade Airflow by its official Helm chart, with `airflow-values.yaml` and what differs per cluster.

    python -m deploy.kubernetes.airflow --overlay local --repository https://... --ref v0.1.0 [--chart CHART]

helm checks the values against the chart's own schema before it changes anything. Safe to run again. Standard library
only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.kubernetes.cluster import NAMESPACE, REFUSED, UNAVAILABLE, ClusterError
from deploy.kubernetes.secret_manifests import ROOT, settings_of, values_of

VALUES = Path(__file__).resolve().with_name("airflow-values.yaml")
RELEASE = "airflow"  # its services and accounts are called after it; the NetworkPolicies and the Ingress know it
VERSION = "1.22.0"
# Parts whose pods read or write task logs in the bucket.
WITH_ROLE = ("apiServer", "scheduler", "triggerer", "workers")


def helm(
    values: Mapping[str, str], settings: Mapping[str, str], *, namespace: str, repository: str, ref: str, chart: str
) -> list[str]:
    """The helm command.

    Args:
        values: of `.env`: PIPELINE_IMAGE_PREFIX, PIPELINE_IMAGE_TAG.
        settings: of the overlay: STORAGE_ROLE_ARN, where there is one.
        namespace: that the rest is in.
        repository: Git address of the DAG files; empty: the one in the values.
        ref: branch, tag or commit of it; the images should be of the same.
        chart: name of the chart in a repository that helm knows, or a file.
    """
    prefix, tag = values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops", values.get("PIPELINE_IMAGE_TAG") or "dev"
    given: dict[str, str] = {}
    for image in ("airflow", "pod_template"):
        given |= {f"images.{image}.repository": f"{prefix}/airflow", f"images.{image}.tag": tag}
    if repository:
        given["dags.gitSync.repo"] = repository
    if ref:
        given["dags.gitSync.ref"] = ref
    if role := settings.get("STORAGE_ROLE_ARN"):
        given |= {rf"{part}.serviceAccount.annotations.eks\.amazonaws\.com/role-arn": role for part in WITH_ROLE}
    command = ["helm", "upgrade", "--install", RELEASE, chart, "--version", VERSION]
    command += ["--namespace", namespace, "--values", str(VALUES)]
    for name, value in given.items():
        command += ["--set-string", f"{name}={value}"]
    return command


def main(arguments: Sequence[str]) -> int:
    """Run helm; an exit code."""
    parser = argparse.ArgumentParser(prog="deploy.kubernetes.airflow", description="Install Airflow by its Helm chart.")
    parser.add_argument("--overlay", default="local")
    parser.add_argument("--namespace", default=NAMESPACE)
    parser.add_argument("--repository", default="")
    parser.add_argument("--ref", default="")
    parser.add_argument("--chart", default="apache-airflow/airflow")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    given = parser.parse_args(arguments)
    try:
        command = helm(
            values_of(given.env_file),
            settings_of(given.overlay),
            namespace=given.namespace,
            repository=given.repository,
            ref=given.ref,
            chart=given.chart,
        )
    except ClusterError as error:
        print(f"kubernetes-airflow: {error}", file=sys.stderr)
        return REFUSED
    try:
        return subprocess.run(command).returncode  # noqa: S603  # helm, with arguments of ours
    except FileNotFoundError:
        print("kubernetes-airflow: helm is not installed; install it, version 3.19 or later", file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

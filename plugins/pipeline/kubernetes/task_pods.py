"""The pods of Airflow's own tasks (KubernetesExecutor), which its scheduler creates in the platform's namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from airflow.configuration import conf
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient

from tasks.errors import SettingsError

IN_A_TASK = "AIRFLOW_IS_K8S_EXECUTOR_POD"  # KubernetesExecutor sets it in the pods that it makes
# Fields of a pod that name a thing of the namespace which the pod then has, and the fields in them with the name.
HELD = ("secretRef", "secretKeyRef", "secret", "imagePullSecrets", "persistentVolumeClaim")
NAMES = ("name", "secretName", "claimName")


def pod_mutation_hook(pod: Any) -> None:
    """Refuse a task's pod to which a DAG's `executor_config` adds a Secret, a volume claim or another account.

    Airflow calls it before it creates a pod, where `airflow_local_settings` names it (airflow-values.yaml). What the
    administrator's template of these pods has is allowed.

    Raises:
        SettingsError: the pod has more.
    """
    template = conf.get("kubernetes_executor", "pod_template_file", fallback="")
    if IN_A_TASK in os.environ or not template:
        return  # a task's own code could go around it; the cluster's Roles decide what it may create
    allowed = set(held(PodGenerator.deserialize_model_file(template)))
    if more := sorted(set(held(pod)) - allowed):
        raise SettingsError(
            f"the executor_config of a task adds {' '.join(more[0])} to its pod, and the template of these pods has no "
            "such thing; remove it from the DAG"
        )


def held(pod: Any) -> Iterator[tuple[str, str]]:
    """Yield what a pod gets hold of by name: each field and the name in it."""
    fields = ApiClient().sanitize_for_serialization(pod)
    for account in ("serviceAccountName", "serviceAccount"):
        if name := fields["spec"].get(account):
            yield "serviceAccountName", name
    yield from _below(fields["spec"], "")


def _below(node: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for one in node:
            yield from _below(one, field)
    elif isinstance(node, dict):
        if field in HELD:
            yield from (("secret" if "ecret" in field else field, node[name]) for name in NAMES if name in node)
        for key, value in node.items():
            yield from _below(value, key)

"""What a DAG file may add to the pod of its own task: nothing that lets it hold a Secret of the platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow import policies
from airflow.providers.cncf.kubernetes.exceptions import PodMutationHookException
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.settings import get_policy_plugin_manager
from kubernetes.client import models as k8s

from pipeline.kubernetes import task_pods

ROOT = Path(__file__).resolve().parents[3]
VALUES = ROOT / "deploy/kubernetes/airflow-values.yaml"
# As the chart's template with our values.
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: placeholder-name, labels: {tier: airflow, component: worker, release: airflow}}
spec:
  serviceAccountName: airflow-worker
  restartPolicy: Never
  initContainers:
    - name: git-sync-init
      image: git-sync:v4
      env: [{name: GITSYNC_PASSWORD, valueFrom: {secretKeyRef: {name: git, key: password}}}]
  containers:
    - name: base
      image: vision-mlops/airflow:dev
      envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: airflow-environment}}]
      env: [{name: AIRFLOW__CORE__FERNET_KEY, valueFrom: {secretKeyRef: {name: airflow, key: fernet-key}}}]
      volumeMounts: [{name: logs, mountPath: /opt/airflow/logs}]
  volumes: [{name: dags, emptyDir: {}}, {name: logs, emptyDir: {}}, {name: config, configMap: {name: airflow-config}}]
"""


@pytest.fixture(autouse=True)
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Airflow as the chart configures it: the template, and the local settings of our values."""
    (tmp_path / "pod_template_file.yaml").write_text(TEMPLATE)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(tmp_path / "pod_template_file.yaml"))
    monkeypatch.delenv(task_pods.IN_A_TASK, raising=False)
    local: dict[str, Any] = {}
    exec(yaml.safe_load(VALUES.read_text())["airflowLocalSettings"], local)  # noqa: S102  # as Airflow imports it
    manager = get_policy_plugin_manager()
    before = set(manager.get_plugins())
    names = {name for name in local if not name.startswith("__")}
    policies.make_plugin_from_local_settings(manager, SimpleNamespace(**local), names)
    yield
    for plugin in set(manager.get_plugins()) - before:
        manager.unregister(plugin)


def made(override: k8s.V1Pod | None, template: str = TEMPLATE) -> k8s.V1Pod:
    """The pod of a task as KubernetesExecutor makes it, with the `pod_override` of its DAG."""
    return PodGenerator.construct_pod(
        "daily_training", "train", "pod-1", 1, "vision-mlops/airflow:dev", None, ["python"], override,
        PodGenerator.deserialize_model_dict(yaml.safe_load(template)), "vision-mlops", "1", with_mutation_hook=True,
    )  # fmt: skip


def override(**fields: Any) -> k8s.V1Pod:
    """A `pod_override`: fields of the container in snake case, those of the pod below `spec`."""
    spec = fields.pop("spec", {})
    return k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", **fields)], **spec))


def test_a_tasks_pod_is_made_and_may_get_other_resources() -> None:
    limits = {"memory": "4Gi"}
    wanted = override(resources=k8s.V1ResourceRequirements(limits=limits), spec={"node_selector": {"disk": "ssd"}})
    assert made(None).spec.service_account_name == "airflow-worker"
    assert made(wanted).spec.containers[0].resources.limits == limits


SECRET_KEY = k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name="postgres", key="POSTGRES_PASSWORD"))
PROJECTED = k8s.V1ProjectedVolumeSource(sources=[k8s.V1VolumeProjection(secret=k8s.V1SecretProjection(name="mlflow"))])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (override(env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="mlflow"))]), "secret mlflow"),
        (override(env=[k8s.V1EnvVar(name="P", value_from=SECRET_KEY)]), "secret postgres"),
        (
            override(spec={"volumes": [k8s.V1Volume(name="x", secret=k8s.V1SecretVolumeSource(secret_name="s3"))]}),
            "secret s3",
        ),
        (override(spec={"volumes": [k8s.V1Volume(name="x", projected=PROJECTED)]}), "secret mlflow"),
        (override(spec={"image_pull_secrets": [k8s.V1LocalObjectReference(name="serving")]}), "Secrets serving"),
        (
            override(
                spec={
                    "volumes": [
                        k8s.V1Volume(
                            name="x",
                            persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(
                                claim_name="data-postgres-0"
                            ),
                        )
                    ]
                }
            ),
            "persistentVolumeClaim data-postgres-0",
        ),
        (override(spec={"service_account_name": "airflow-scheduler"}), "serviceAccountName airflow-scheduler"),
        (override(spec={"service_account": "airflow-scheduler"}), "serviceAccountName airflow-scheduler"),
        (
            override(
                spec={
                    "init_containers": [k8s.V1Container(name="x", env=[k8s.V1EnvVar(name="P", value_from=SECRET_KEY)])]
                }
            ),
            "secret postgres",
        ),
    ],
)
def test_what_opens_the_platform_is_refused(asked: k8s.V1Pod, said: str) -> None:
    with pytest.raises(PodMutationHookException) as refusal:
        made(asked)
    assert said.replace("Secrets", "secret") in str(refusal.value.__cause__)


def test_a_template_of_the_dags_own_is_judged_by_the_administrators() -> None:
    own = TEMPLATE.replace("name: airflow, key: fernet-key", "name: postgres, key: POSTGRES_PASSWORD")
    with pytest.raises(PodMutationHookException):
        made(None, own)


def test_airflow_loads_the_hook_from_where_the_chart_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/airflow_local_settings.py").write_text(
        yaml.safe_load(VALUES.read_text())["airflowLocalSettings"]
    )
    program = "import airflow.settings as s; print([h.function.__module__ for h in HOOKS])".replace(
        "HOOKS", "s.get_policy_plugin_manager().hook.pod_mutation_hook.get_hookimpls()"
    )
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT}/plugins"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "pipeline.kubernetes.task_pods" in done.stdout, done.stdout + done.stderr


def test_inside_a_task_it_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(task_pods.IN_A_TASK, "True")
    assert made(override(env=[k8s.V1EnvVar(name="P", value_from=SECRET_KEY)])).spec.containers

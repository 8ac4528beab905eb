"""A namespace of its own on a real cluster, the account that Airflow's tasks have there, and a scripted stage.

TEST_KUBECONFIG names the cluster; without it no test here runs. If its nodes do not share this machine's engine,
TEST_LOAD_IMAGE is the command that loads "$IMAGE" onto them: `kind load docker-image "$IMAGE"`.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

from airflow.sdk import DAG
from kubernetes.config import kube_config

from deploy.kubernetes.cluster import stages_of
from deploy.kubernetes.render import in_namespaces
from pipeline.kubernetes.operator import KubernetesStageOperator
from tests.stack.conftest import STAGES, TAG, build_images
from tests.stack.stub_stage import RUN_ID, build_image

from .state import State, load_image, running

ROOT = Path(__file__).resolve().parents[3]
KUBECONFIG = os.environ.get("TEST_KUBECONFIG", "")
PASSWORD = "v3ry-l0ng-and-secret"
Make = Callable[..., KubernetesStageOperator]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a cluster, deselect these tests; `make test-kubernetes` requires one."""
    if KUBECONFIG:
        return
    away = [item for item in items if item.get_closest_marker("kubernetes")]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]


class Namespace:
    """A namespace of the cluster, seen as its administrator."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, text: str | None = None, kubeconfig: str = KUBECONFIG) -> str:
        """Run kubectl and return what it printed."""
        command = ["kubectl", "--kubeconfig", kubeconfig, "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def pods(self, dag_id: str | None = None) -> list[dict[str, Any]]:
        """Stages' pods that are not being deleted."""
        found = json.loads(self.kubectl("get", "pods", "--output", "json"))["items"]
        of = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        noted = "pipeline.dag_id"
        return [pod for pod in of if dag_id in (None, pod["metadata"].get("annotations", {}).get(noted))]


@pytest.fixture(scope="session")
def platform() -> Iterator[Namespace]:
    """A namespace with the account of Airflow's tasks."""
    found = Namespace(f"vm-test-kubernetes-{secrets.token_hex(3)}")
    found.kubectl("create", "namespace", found.name)
    try:
        found.kubectl("create", "serviceaccount", "airflow-worker")
        yield found
    finally:
        found.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="session")
def namespace(platform: Namespace) -> Iterator[Namespace]:
    """The namespace of the stages: the account and the Role of the manifests, and the Secret that stages read."""
    found = Namespace(stages_of(platform.name))
    found.kubectl("create", "namespace", found.name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder).resolve()
            base = os.path.relpath(ROOT / "deploy/kubernetes/base/stages", where)
            transformers = in_namespaces(platform.name)
            (where / "kustomization.yaml").write_text(json.dumps({"resources": [base], "transformers": transformers}))
            manifests = found.kubectl("kustomize", str(where))
        found.kubectl("apply", "--filename", "-", text=manifests)
        found.kubectl("create", "secret", "generic", "stages", f"--from-literal=MLFLOW_TRACKING_PASSWORD={PASSWORD}")
        yield found
    finally:
        found.kubectl("delete", "namespace", found.name, "--wait=false")


def kubeconfig_of(account: str, namespace: Namespace | State, path: Path) -> Path:
    """Write a kubeconfig of an account, with the rights that a task's pod has by its token."""
    config = json.loads(namespace.kubectl("config", "view", "--raw", "--minify", "--output", "json"))
    token = namespace.kubectl("create", "token", account, "--duration", "3h").strip()
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": account, "namespace": namespace.name}
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def worker(platform: Namespace, namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubeconfig of the account that Airflow's chart gives a task: it has the Role and nothing else."""
    return kubeconfig_of("airflow-worker", platform, tmp_path_factory.mktemp("worker") / "config")


def become(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every client of this process use a kubeconfig; kubernetes.config read the variable when it was imported."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prefix of the stand-in's images, which are on the cluster's nodes."""
    prefix = f"vm-test-{secrets.token_hex(4)}"
    names = [f"{prefix}/{stage}:dev" for stage in ("register", "prepare")]
    for name in names:
        build_image(tmp_path_factory.mktemp("image"), name)
        load_image(name)
    yield prefix
    subprocess.run(["docker", "rmi", "--force", *names], capture_output=True)


def stage_settings(namespace: Namespace, image: str) -> dict[str, str]:
    """Variables of an Airflow whose stages are pods of the stand-in."""
    return {
        "PIPELINE_RUNTIME": "kubernetes",
        "PIPELINE_KUBERNETES_NAMESPACE": namespace.name,
        "PIPELINE_KUBERNETES_START_SECONDS": "1800",
        "PIPELINE_IMAGE_PREFIX": image,
        "PIPELINE_RESOURCES": json.dumps({"register": {"cpus": 0.5, "memory": "96m", "shm_size": "32m"}}),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "of-airflow-not-of-the-cluster",
    }


@pytest.fixture
def settings(namespace: Namespace, image: str, worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment of an Airflow task on that cluster."""
    for name in list(os.environ):
        if name.startswith(("PIPELINE_", "MLFLOW_", "SERVING_", "AWS_")):
            monkeypatch.delenv(name)
    for name, value in stage_settings(namespace, image).items():
        monkeypatch.setenv(name, value)
    become(worker, monkeypatch)


@pytest.fixture
def make(settings: None) -> Make:
    """Makes a task whose stage runs the Python it is given."""

    def make_task(code: str, **kwargs: Any) -> KubernetesStageOperator:
        given = {"stage": "register", "request_fields": {"evaluate_run_id": RUN_ID, "approval": {}}} | kwargs
        with DAG(f"d-{secrets.token_hex(4)}"):
            return KubernetesStageOperator(task_id="t", environment={"STUB": code}, **given)

    return make_task


@pytest.fixture
def left(namespace: Namespace) -> Callable[[KubernetesStageOperator], list[dict[str, Any]]]:
    """Pods that a task has left behind, except those that are being deleted."""
    return lambda task: namespace.pods(task.dag_id)


@pytest.fixture(scope="session")
def pipeline_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """MLflow, its state and the service in a namespace of the cluster, initially empty, and the stages' images."""
    build_images(*STAGES)
    for stage in STAGES:
        load_image(f"vision-mlops/{stage}:{TAG}")
    with running(f"vm-test-pipeline-{secrets.token_hex(3)}", tmp_path_factory.mktemp("state")) as found:
        found.kubectl("create", "serviceaccount", "airflow-worker")
        yield found


@pytest.fixture(scope="session")
def pipeline_worker(pipeline_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubeconfig of Airflow's tasks in that namespace."""
    return kubeconfig_of("airflow-worker", pipeline_state, tmp_path_factory.mktemp("worker") / "config")


CONF = {
    "epochs": 3,
    **{"workers": 2, "worker_cpus": 1},  # in the pod of train
    "resources": {
        "prepare": {"memory": "2g"},
        "train": {"memory": "6g", "ephemeral_storage": "4g"},
        "evaluate": {"memory": "2g"},
    },
}


def pipeline_settings(state: State) -> dict[str, str]:
    """Variables of an Airflow whose stages are pods with that state: settings of the cluster, and secrets."""
    told = json.loads(state.kubectl("get", "configmap", "settings", "--output", "json"))["data"]
    return {
        **{name: value for name, value in told.items() if name.startswith("PIPELINE_") and value},
        **{name: state.variables[name] for name in ("MLFLOW_STAGES_PASSWORD", "MLFLOW_REGISTRY_PASSWORD")},
        "PIPELINE_RUNTIME": "kubernetes",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",  # for links only: no Airflow task calls MLflow
    }


def airflow(
    state: State, worker: Path, home: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run an Airflow command as a task's pod of the chart would, with its account and settings only, and variables."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": f"{ROOT}/dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "KUBECONFIG": str(worker),
        **pipeline_settings(state),
        **variables,
    }
    command = [str(Path(sys.executable).with_name("airflow")), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)


@pytest.fixture(scope="session")
def daily_run(pipeline_state: State, pipeline_worker: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of a `daily_training` that succeeded."""
    home = tmp_path_factory.mktemp("airflow")
    done = airflow(pipeline_state, pipeline_worker, home, "db", "migrate")
    assert done.returncode == 0, done.stderr[-2000:]
    test = ("dags", "test", "daily_training", "2026-02-03", "--conf", json.dumps(CONF))
    done = airflow(pipeline_state, pipeline_worker, home, *test)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr

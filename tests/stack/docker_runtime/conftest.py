"""The docker runtime on a real engine: its operator, an image and a network of its own, and the socket proxy."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import docker
from airflow.sdk import DAG

from pipeline.docker.operator import DockerStageOperator
from tests.stack.stub_stage import RUN_ID, build_image
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
PORT = 21250
Make = Callable[..., DockerStageOperator]


@pytest.fixture(scope="package")
def client() -> docker.DockerClient:
    return docker.from_env()


@pytest.fixture(scope="package")
def names(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An image and a network of this package's own."""
    token = secrets.token_hex(4)
    found = SimpleNamespace(prefix=f"vm-test-{token}", network=f"vm-test-{token}")
    for stage in ("register", "prepare"):
        build_image(tmp_path_factory.mktemp("image"), f"{found.prefix}/{stage}:dev")
    network = client.networks.create(found.network)
    yield found
    for container in client.containers.list(all=True, filters={"name": f"vm-test-{token}"}):
        container.remove(force=True, v=True)
    network.remove()
    for stage in ("register", "prepare"):
        client.images.remove(f"{found.prefix}/{stage}:dev", force=True)


@pytest.fixture(scope="package")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that stages may read."""
    folder = tmp_path_factory.mktemp("open") / "roots"
    folder.mkdir(mode=0o755)
    return folder.resolve()


@pytest.fixture(scope="package")
def proxy(names: SimpleNamespace, roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the socket proxy, a process of its own."""
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "PIPELINE_IMAGE_PREFIX": names.prefix,
        "PIPELINE_DOCKER_NETWORK": names.network,
        "PIPELINE_SOURCE_ROOTS": str(roots),
    }
    command = [sys.executable, "-m", "pipeline.socket_proxy", "--host", "127.0.0.1", "--port", str(PORT)]
    log = tmp_path_factory.mktemp("proxy") / "log"
    with log.open("wb") as file, subprocess.Popen(command, env=environment, stderr=file) as process:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 1):
                return True
            return False

        until(answers, 120)
        yield f"tcp://127.0.0.1:{PORT}"
        process.terminate()


@pytest.fixture
def settings(names: SimpleNamespace, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PIPELINE_", "MLFLOW_", "SERVING_", "AWS_")):
            monkeypatch.delenv(name)
    values = {
        "PIPELINE_RUNTIME": "docker",
        "PIPELINE_IMAGE_PREFIX": names.prefix,
        "PIPELINE_DOCKER_NETWORK": names.network,
        "PIPELINE_SOURCE_ROOTS": str(roots),
        "PIPELINE_RESOURCES": json.dumps({"register": {"cpus": 0.5, "memory": "96m", "shm_size": "32m"}}),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "v3ry-l0ng",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def make(settings: None, names: SimpleNamespace, proxy: str) -> Make:
    class Named(DockerStageOperator):
        name_prefix = names.prefix

    def make_task(code: str, **kwargs: Any) -> DockerStageOperator:
        given = {
            "stage": "register",
            "request_fields": {"evaluate_run_id": RUN_ID, "approval": {}},
            "docker_url": proxy,
        } | kwargs
        with DAG(f"d-{secrets.token_hex(4)}"):
            return Named(task_id="t", environment={"STUB": code}, **given)

    return make_task


@pytest.fixture
def left(client: docker.DockerClient) -> Callable[[DockerStageOperator], list[Any]]:
    """Containers that a task has left on the engine."""

    def list_left(task: DockerStageOperator) -> list[Any]:
        # The low-level call: the other one inspects each container, which may be gone by then.
        return client.api.containers(all=True, filters={"label": f"pipeline.dag_id={task.dag_id}"})

    return list_left

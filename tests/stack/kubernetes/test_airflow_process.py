"""Airflow itself, as a process of its own, on a real cluster: stopped, killed, started again, and a retry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import until

from .conftest import ROOT, Namespace, stage_settings

pytestmark = pytest.mark.kubernetes

DAG = """
from datetime import timedelta
import pendulum
from airflow.sdk import DAG
from pipeline.runtimes import stage_task

with DAG(
    "pods", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={{"retries": {retries}, "retry_delay": timedelta(seconds=1)}},
):
    stage_task(
        "register", evaluate_run_id="0" * 32, approval={{}},
        environment={{"STUB": {code!r}}},
    )
"""
Airflow = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow whose database is ready."""
    folder = tmp_path_factory.mktemp("airflow")
    airflow = str(Path(sys.executable).with_name("airflow"))
    environment = {**os.environ, "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=1800)
    return folder


@pytest.fixture
def airflow(home: Path, namespace: Namespace, image: str, worker: Path, tmp_path: Path) -> Iterator[Airflow]:
    """Starts a run of a DAG of one stage that runs the given Python, as `make run` does; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, retries: int = 0) -> subprocess.Popen[str]:
        (tmp_path / "pods.py").write_text(DAG.format(code=code, retries=retries))
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **stage_settings(namespace, image),
            "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
            "PIPELINE_HOME": str(home),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # nobody is there for the table at the end
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
            "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "KUBECONFIG": str(worker),
        }
        command = [sys.executable, "-m", "pipeline", "run", "pods"]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def one_running(namespace: Namespace) -> str:
    """Name of the task's pod, once the stage in it runs."""

    def ready() -> list[str]:
        pods = [pod for pod in namespace.pods("pods") if pod["status"]["phase"] == "Running"]
        return [pod["metadata"]["name"] for pod in pods]

    (name,) = until(ready)
    return str(name)


def test_a_task_that_is_stopped_takes_its_pod_along(airflow: Airflow, namespace: Namespace) -> None:
    process = airflow("time.sleep(600)")
    one_running(namespace)
    process.send_signal(signal.SIGTERM)
    until(lambda: namespace.pods("pods") == [])
    process.kill()


def test_after_a_kill_the_next_airflow_goes_on_with_the_pod(airflow: Airflow, namespace: Namespace) -> None:
    code = "print('begun'); time.sleep(30); print('ended'); answer()"
    first = airflow(code)
    name = one_running(namespace)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(2)
    assert [pod["metadata"]["name"] for pod in namespace.pods("pods")] == [name]  # nothing ends it
    second = airflow(code)
    said = second.communicate(timeout=1800)[0]
    assert second.returncode == 0, said[-4000:]
    assert f"resuming pod {name}" in said
    assert said.count("begun") >= 1
    assert "ended" in said
    assert namespace.pods("pods") == []


def test_a_try_that_failed_is_followed_by_one_in_a_new_pod(airflow: Airflow, namespace: Namespace) -> None:
    late = time.time() + 120  # the first try is over by then, whatever the machine's speed
    code = (
        f"late = {late}; print('try at', time.time()); ok = time.time() > late\n"
        "if not ok:\n    time.sleep(late - time.time() + 1); sys.exit(69)\nanswer()"
    )
    process = airflow(code, retries=1)
    said = process.communicate(timeout=1800)[0]
    assert process.returncode == 0, said[-4000:]
    assert said.count(": pod register-") == 2
    assert "exit code 69" in said
    assert namespace.pods("pods") == []

"""Airflow's part of a task is lost, the stage's goes on: the next try takes it over, or ends it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.kubernetes.operator import KubernetesStageOperator
from pipeline.kubernetes.pod import stage_pod
from tasks.settings import load_settings
from tests.stack.stub_stage import TaskLog, context
from tests.waiting import until

from .conftest import KUBECONFIG, ROOT, Make, Namespace

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch) -> TaskLog:
    lines = TaskLog()
    monkeypatch.setattr(KubernetesStageOperator, "log", lines)
    return lines


def lose(task: KubernetesStageOperator, left: Any, *, phase: str = "Running", change: str = "") -> str:
    """Start a task's pod as a try that was killed right after would leave it; its name."""
    job = task.job(context())
    pod = stage_pod(job, load_settings())
    if change:
        pod.metadata.annotations["pipeline.digest"] = change
    task._cluster().create(pod)
    until(lambda: [one for one in left(task) if one["status"]["phase"] == phase])
    return str(pod.metadata.name)


def test_the_next_try_goes_on_with_the_pod_that_runs(make: Make, left: Any, task_log: TaskLog) -> None:
    task = make("print('begun'); time.sleep(6); print('done'); answer(version=int(time.monotonic()))")
    name = lose(task, left)
    result = task.run_stage(context())
    assert f"resuming pod {name}, started by an earlier try" in " ".join(task_log)
    assert [line for line in task_log if line in ("begun", "done")] == ["begun", "done"]  # from its beginning
    assert result["version"] > 0
    assert left(task) == []


def test_a_pod_that_ended_well_meanwhile_still_has_its_result(make: Make, left: Any, task_log: TaskLog) -> None:
    task = make("answer(version=77)")
    name = lose(task, left)
    until(lambda: any("terminated" in one["state"] for one in left(task)[0]["status"]["containerStatuses"]))
    assert task.run_stage(context())["version"] == 77
    assert f"resuming pod {name}" in " ".join(task_log)
    assert left(task) == []


def test_a_pod_that_failed_meanwhile_is_removed_and_the_stage_starts_anew(
    make: Make, left: Any, task_log: TaskLog
) -> None:
    task = make("sys.exit(69) if time.time() < float(os.environ['UNTIL']) else answer()")
    began = time.monotonic()
    make("answer()").run_stage(context())
    task.environment["UNTIL"] = str(time.time() + 30 + 3 * (time.monotonic() - began))  # a pod starts and fails before
    name = lose(task, left)
    until(lambda: any("terminated" in one["state"] for one in left(task)[0]["status"]["containerStatuses"]))
    assert time.time() < float(task.environment["UNTIL"])
    until(lambda: time.time() > float(task.environment["UNTIL"]) + 1)
    assert task.run_stage(context())["version"] == 3
    assert f"removing pod {name}, left by an earlier try" in task_log
    assert left(task) == []


def test_a_pod_of_another_request_is_ended_before_the_new_one_starts(
    make: Make, left: Any, task_log: TaskLog, namespace: Namespace
) -> None:
    task = make("answer()")
    older = lose(make_same(task, "time.sleep(300)"), left)
    assert task.run_stage(context())["version"] == 3
    assert f"removing pod {older}, left by an earlier try" in task_log
    assert left(task) == []


def make_same(task: KubernetesStageOperator, code: str) -> KubernetesStageOperator:
    """The same task in an earlier version of its DAG, in which the stage does something else."""
    other = copy.copy(task)
    other.environment = {"STUB": code}
    return other


def test_the_pod_of_another_task_stays(make: Make, left: Any) -> None:
    other, task = make("time.sleep(300)"), make("answer()")
    name = lose(other, left)
    assert task.run_stage(context())["version"] == 3
    assert [pod["metadata"]["name"] for pod in left(other)] == [name]
    other._cluster().delete(name)


def test_what_no_try_comes_back_for_is_listed_and_removed_by_gc(
    make: Make, left: Any, platform: Namespace, namespace: Namespace, tmp_path: Path
) -> None:
    task = make("time.sleep(300)")
    name = lose(task, left)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),  # kubectl's cache is there, or in the working folder
        "KUBECONFIG": KUBECONFIG,
        "NAMESPACE": platform.name,
    }
    command = [sys.executable, "-m", "deploy", "leftover-pods"]

    def gc(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"none is left over in namespace {namespace.name}" in gc()  # too young
    time.sleep(1.1)  # the cluster's times are whole seconds
    said = gc("--days", "0")
    assert f"{name}  Running since" in said
    assert f"{task.dag_id}/manual__1/t/-1" in said
    assert [pod["metadata"]["name"] for pod in left(task)] == [name]
    assert "removed" in gc("--days", "0", "--apply")
    until(lambda: left(task) == [])


def test_on_kill_ends_the_pod_and_the_stage_is_asked_first(make: Make, left: Any, task_log: TaskLog) -> None:
    task = make("signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(143))); print('up'); time.sleep(300)")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            task.run_stage(context())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: "up" in task_log)
    task.on_kill()
    thread.join(60)
    assert "bye" in task_log
    assert "deleted while it ran" in str(failures[0])
    assert left(task) == []

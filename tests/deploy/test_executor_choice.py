"""images/airflow/start.py, run as the image runs it; `airflow` is a script that tells what it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = Path(__file__).resolve().parents[2] / "images/airflow/start.py"


def start(folder: Path, profiles: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    airflow = folder / "airflow"
    airflow.write_text('#!/bin/sh\necho "$AIRFLOW__CORE__EXECUTOR" "$AIRFLOW__METRICS__OTEL_ON" "$@"\n')
    airflow.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | (
        {} if profiles is None else {"COMPOSE_PROFILES": profiles}
    )
    return subprocess.run([sys.executable, str(START), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("profiles", "executor", "metrics"),
    [
        (None, "LocalExecutor", False),
        ("", "LocalExecutor", False),
        ("monitoring", "LocalExecutor", True),
        ("celery", "CeleryExecutor", False),
        ("monitoring, celery", "CeleryExecutor", True),
        ("*", "CeleryExecutor", True),
        ("celery-too,monitoring-too", "LocalExecutor", False),
    ],
)
def test_executor_and_metrics_are_what_the_profiles_ask_for(
    tmp_path: Path, profiles: str | None, executor: str, metrics: bool
) -> None:
    started = start(tmp_path, profiles, "scheduler", "--num-runs", "1")
    assert started.stdout == f"{executor} {metrics} scheduler --num-runs 1\n"


def test_a_worker_runs_with_the_profile(tmp_path: Path) -> None:
    assert start(tmp_path, "celery", "celery", "worker").stdout == "CeleryExecutor False celery worker\n"


@pytest.mark.parametrize("profiles", [None, "", "monitoring"])
def test_a_worker_that_nobody_would_send_tasks_ends_with_the_fix(tmp_path: Path, profiles: str | None) -> None:
    done = start(tmp_path, profiles, "celery", "worker")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "COMPOSE_PROFILES does not include celery" in done.stderr
    assert "add it in .env" in done.stderr


@pytest.mark.parametrize("words", [["airflow", "scheduler"], ["bash", "-c", "exec airflow scheduler"]])
def test_a_whole_command_is_run_as_it_is_and_keeps_the_executor_it_was_given(tmp_path: Path, words: list[str]) -> None:
    asked = ["env", "AIRFLOW__CORE__EXECUTOR=KubernetesExecutor", sys.executable, str(START), *words]
    start(tmp_path, None)  # makes the script `airflow`
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(asked, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["KubernetesExecutor", "scheduler"], done.stderr


def test_python_is_run_as_it_is_for_the_pods_of_tasks(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    assert start(tmp_path, None, "python", "-c", "print(6 * 7)").stdout == "42\n"

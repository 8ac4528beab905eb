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
    airflow.write_text('#!/bin/sh\necho "$AIRFLOW__CORE__EXECUTOR" "$@"\n')
    airflow.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | (
        {} if profiles is None else {"COMPOSE_PROFILES": profiles}
    )
    return subprocess.run([sys.executable, str(START), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("profiles", "executor"),
    [
        (None, "LocalExecutor"),
        ("", "LocalExecutor"),
        ("monitoring", "LocalExecutor"),
        ("celery", "CeleryExecutor"),
        ("monitoring, celery", "CeleryExecutor"),
        ("*", "CeleryExecutor"),
        ("celery-too", "LocalExecutor"),
    ],
)
def test_the_executor_is_the_one_that_the_profiles_ask_for(tmp_path: Path, profiles: str | None, executor: str) -> None:
    assert start(tmp_path, profiles, "scheduler", "--num-runs", "1").stdout == f"{executor} scheduler --num-runs 1\n"


def test_a_worker_runs_with_the_profile(tmp_path: Path) -> None:
    assert start(tmp_path, "celery", "celery", "worker").stdout == "CeleryExecutor celery worker\n"


@pytest.mark.parametrize("profiles", [None, "", "monitoring"])
def test_a_worker_that_nobody_would_send_tasks_ends_with_the_fix(tmp_path: Path, profiles: str | None) -> None:
    done = start(tmp_path, profiles, "celery", "worker")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "COMPOSE_PROFILES does not hold celery" in done.stderr
    assert "write it into .env" in done.stderr

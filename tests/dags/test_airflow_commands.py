"""Airflow's and MLflow's own commands by hand, as docs/how-to/run-and-schedule.md shows them, in a new folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The packages are there already: .venv is not made, nor anything that it is made from.
READY = "make --old-file=.venv/.installed ready"
COMMANDS = f"""
{READY} >&2
. deploy/env.sh local
airflow dags list --output plain --columns dag_id
airflow tasks test daily_training prepare
mlflow experiments search
mlflow runs list --experiment-id 1
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("home")
    foreign = ("AIRFLOW_", "PIPELINE_", "MLFLOW_", "PYTHONPATH", "RUNTIME")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    variables |= {
        "PIPELINE_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", "-euo", "pipefail", "-c", COMMANDS]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "mlflow.db").exists()
    return done.stdout


def test_the_dags_are_listed_on_first_use(said: str) -> None:
    assert {"daily_training", "rollback_champion", "weekly_compression", "weekly_tuning"} <= set(said.split())


def test_a_task_runs_and_mlflow_shows_its_run(said: str) -> None:
    shown = said.split("prepare: done in")[1]
    assert " prepare " in shown
    assert "vision-mlops" in shown


def test_nothing_is_left_in_the_repository(said: str) -> None:
    assert not (ROOT / "mlflow.db").exists()
    assert not (ROOT / "mlruns").exists()

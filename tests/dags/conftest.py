"""A scratch Airflow, its database made once for all tests here; DAGs run in processes of their own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _last_line(command: list[str], variables: dict[str, str]) -> Any:
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of an Airflow that reads the project's DAGs and plugins, with a database of its own."""
    home = tmp_path_factory.mktemp("airflow")
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PIPELINE_", "MLFLOW_"))
    }
    variables = {
        **own,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
        "PIPELINE_HOME": str(home / "pipeline"),
    }
    _migrated(home / "airflow.db", tmp_path_factory.getbasetemp().parent, variables)
    return variables


def _migrated(database: Path, shared: Path, variables: dict[str, str]) -> None:
    """Make Airflow's database; the processes of one session that tests are spread over make it once and copy it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shared = database.parent
    made = shared / "migrated.db"
    with (shared / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(migrate, env=variables, check=True, capture_output=True)
            shutil.copy(database, made)
    shutil.copy(made, database)


@pytest.fixture(scope="session")
def parse(airflow: dict[str, str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Reads a DAG file in a process of its own, with more variables, and tells what Airflow made of it."""
    script = str(Path(__file__).with_name("parse_dags.py"))
    with subprocess.Popen(
        [sys.executable, script], env=airflow, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        lines = (json.loads(line) for line in reader.stdout if line.startswith("{"))

        def parsed(dag: str, **variables: str) -> dict[str, Any]:
            print(json.dumps([str(ROOT / "dags" / f"{dag}.py"), variables]), file=reader.stdin, flush=True)
            found = next(lines)
            assert found != {"read": False}, "the error is in the test's standard error"
            assert next(lines) == {"read": True}
            return dict(found)

        yield parsed
        reader.stdin.close()


@pytest.fixture(scope="session")
def run_scenarios(airflow: dict[str, str]) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs DAGs with a stub for the stages, and tells what came of each, by the scenario's name."""
    script = str(Path(__file__).with_name("run_scenarios.py"))

    def run(scenarios: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        done = _last_line([sys.executable, script, json.dumps(list(scenarios.values()))], airflow)
        return dict(zip(scenarios, done, strict=True))

    return run

"""A scratch Airflow, its database made once for all tests here; what needs Airflow runs in a `tests.dags.forked`."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dags.forked import Forks

ROOT = Path(__file__).resolve().parents[2]
MIGRATE = "import sys; from airflow.__main__ import main; sys.argv[1:] = ['db', 'migrate']; main()"


def _environment(home: Path) -> dict[str, str]:
    """Environment of an Airflow that reads the project's DAGs and plugins, with a database of its own."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PIPELINE_", "MLFLOW_"))
    }
    return {
        **own,
        "AIRFLOW_HOME": str(home),
        # Said outright: a fork has Airflow's settings of another home, in which the server was started.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
        "PIPELINE_HOME": str(home / "pipeline"),
    }


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes that have imported Airflow already, with a migrated database."""
    airflow = _environment(tmp_path_factory.mktemp("airflow"))
    # The processes of one session that tests are spread over have folders of their own in a shared one.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = Forks(shared, tmp_path_factory.mktemp("forks"), airflow)
    database, migrated = Path(airflow["AIRFLOW_HOME"], "airflow.db"), shared / "migrated.db"
    with (shared / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not migrated.exists():
            done = made.run(MIGRATE)
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.copy(database, migrated)
    shutil.copy(migrated, database)
    yield made
    made.close()


@pytest.fixture(scope="session")
def airflow(forks: Forks) -> dict[str, str]:
    """Environment of an Airflow that reads the project's DAGs and plugins, with a migrated database of its own."""
    return forks.variables


@pytest.fixture(scope="session")
def parse(forks: Forks) -> Callable[..., dict[str, Any]]:
    """Reads a DAG file in a process of its own, with more variables, and tells what Airflow made of it."""

    def parsed(dag: str, **variables: str) -> dict[str, Any]:
        file = str(ROOT / "dags" / f"{dag}.py")
        done = forks.run("import parse_dags; parse_dags.main()", file, variables=forks.variables | variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    return parsed


@pytest.fixture(scope="session")
def run_scenarios(forks: Forks) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs DAGs with a stub for the stages, and tells what came of each, by the scenario's name."""

    def run(scenarios: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        done = forks.run("import run_scenarios; run_scenarios.main()", json.dumps(list(scenarios.values())))
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(zip(scenarios, json.loads(done.stdout.splitlines()[-1]), strict=True))

    return run

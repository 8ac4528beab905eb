"""A scratch Airflow, its database made once for all tests here; DAGs run in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARSE = """
import importlib.abc, json, sys, time
started = time.process_time()  # of the processor: beside other work a wall clock tells of that work
class Ban(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "mlflow", "bentoml"}:
            raise ImportError(f"{name} must not be imported by a DAG or a plugin")
sys.meta_path.insert(0, Ban())
from airflow.dag_processing.dagbag import DagBag
from airflow import plugins_manager
ready = time.process_time()
bag = DagBag(sys.argv[1])
parsed = time.process_time()
plugins, errors = plugins_manager._get_plugins()
dag = next(iter(bag.dags.values()), None)
print("\\n" + json.dumps({
    "errors": [*bag.import_errors.values(), *errors.values()],
    "dags": list(bag.dags),
    "seconds": parsed - ready,
    "total": parsed - started,
    "plugins": [plugin.name for plugin in plugins],
    "banned": [name for name in ("torch", "mlflow", "bentoml") if name in sys.modules],
    "bare": [name for name in ("base", "local", "docker", "links", "params") if "plugins/pipeline" in str(
        getattr(sys.modules.get(name), "__file__", ""))],
    "facts": {
        "catchup": dag.catchup, "max_active_runs": dag.max_active_runs, "start": str(dag.start_date),
        "timezone": str(dag.timezone), "schedule": str(dag.schedule), "doc": bool(dag.doc_md), "tags": sorted(dag.tags),
        "timeout": dag.dagrun_timeout.total_seconds(),
        "pools": {t.task_id: t.pool for t in dag.tasks},
        "sections": list(dict.fromkeys(dag.params.get_param(name).schema["section"] for name in dag.params)),
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "tasks": {t.task_id: [sorted(t.downstream_task_ids), t.retries, t.retry_exponential_backoff > 0,
                              t.execution_timeout.total_seconds()] for t in dag.tasks},
    },
}))
"""


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
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=variables, check=True, capture_output=True)
    return variables


@pytest.fixture(scope="session")
def parse(airflow: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Reads a DAG file in a process of its own, with more variables, and tells what Airflow made of it."""

    def parsed(dag: str, **variables: str) -> dict[str, Any]:
        return dict(_last_line([sys.executable, "-c", PARSE, str(ROOT / "dags" / f"{dag}.py")], airflow | variables))

    return parsed


@pytest.fixture(scope="session")
def run_scenarios(airflow: dict[str, str]) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs DAGs with a stub for the stages, and tells what came of each, by the scenario's name."""
    script = str(Path(__file__).with_name("run_scenarios.py"))

    def run(scenarios: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        done = _last_line([sys.executable, script, json.dumps(list(scenarios.values()))], airflow)
        return dict(zip(scenarios, done, strict=True))

    return run

"""Tells what Airflow makes of a DAG file, as its DAG processor does: one JSON line. Runs in a `forked.Forked`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag


def read(file: str) -> dict[str, Any]:
    """Tell what Airflow makes of a DAG file, and in how many seconds of CPU time."""
    ready = time.process_time()
    bag = DagBag(file)
    parsed = time.process_time()
    plugins, errors = plugins_manager._get_plugins()
    dag = next(iter(bag.dags.values()))
    modules = [getattr(sys.modules.get(name), "__file__", "") or "" for name in ("base", "local", "docker", "links")]
    return {
        "errors": [*bag.import_errors.values(), *errors.values()],
        "dags": list(bag.dags),
        "seconds": parsed - ready,
        "plugins": [plugin.name for plugin in plugins],
        "banned": [name for name in ("torch", "mlflow", "bentoml") if name in sys.modules],
        "bare": [module for module in modules if "plugins/pipeline" in module],
        "facts": {
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "start": str(dag.start_date),
            "timezone": str(dag.timezone),
            "schedule": str(dag.schedule),
            "doc": bool(dag.doc_md),
            "tags": sorted(dag.tags),
            "timeout": dag.dagrun_timeout.total_seconds(),
            "pools": {t.task_id: t.pool for t in dag.tasks},
            "sections": list(dict.fromkeys(dag.params.get_param(name).schema["section"] for name in dag.params)),
            "params": {name: dag.params.get_param(name).schema for name in dag.params},
            "tasks": {
                t.task_id: [
                    sorted(t.downstream_task_ids),
                    t.retries,
                    t.retry_exponential_backoff > 0,
                    t.execution_timeout.total_seconds(),
                ]
                for t in dag.tasks
            },
        },
    }


def main() -> None:
    """Read the file that the command line names."""
    print("\n" + json.dumps(read(sys.argv[1])))

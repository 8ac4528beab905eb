"""Reads DAG files as Airflow's DAG processor does: one JSON line [DAG file, variables] in, one JSON line out for each.

Airflow is imported once, which takes seconds; every file is read in a fork of this process, with the variables that
the line names.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import sys
import time
from typing import Any


class Ban(importlib.abc.MetaPathFinder):
    """Refuses what neither a DAG nor a plugin may import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a banned package."""
        if name.partition(".")[0] in {"torch", "torchvision", "mlflow", "bentoml"}:
            raise ImportError(f"{name} must not be imported by a DAG or a plugin")


sys.meta_path.insert(0, Ban())

from airflow import plugins_manager  # noqa: E402
from airflow.dag_processing.dagbag import DagBag  # noqa: E402


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
    """Answer every line of standard input."""
    for line in sys.stdin:
        file, variables = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.environ.update(variables)
            print("\n" + json.dumps(read(file)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("\n" + json.dumps({"read": status == 0}), flush=True)


if __name__ == "__main__":
    main()

"""Checks the configuration of a DAG run before it starts: `python -m pipeline.conf DAG_ID CONF`.

Airflow takes unknown keys silently and answers a wrong value with a page of traceback; this ends in one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator

from pipeline.base import StageOperator
from pipeline.params import require_known
from tasks.errors import RequestError, exit_code_of

if TYPE_CHECKING:
    from airflow.sdk import DAG

EXAMPLE = """write CONF='{"dataset": "digits"}'"""


def check_conf(dag: DAG, text: str) -> None:
    """Check a DAG run's configuration, JSON, against the DAG's Params and its first stages' requests.

    Raises:
        RequestError: in one line, naming the key, its value and what would do.
    """
    try:
        conf = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise RequestError(f"{text[:80]!r} is not JSON ({error}); {EXAMPLE}") from error
    if not isinstance(conf, dict):
        raise RequestError(f"{text[:80]!r} is not a JSON object; {EXAMPLE}")
    require_known(conf, dag.params)
    for name, value in conf.items():
        for problem in Draft202012Validator(dag.params.get_param(name).schema).iter_errors(value):
            raise RequestError(f"{name}={value!r}: {problem.message}")
    for task in dag.tasks:
        if isinstance(task, StageOperator) and not task.upstream_task_ids:
            task.request({**dag.params.dump(), **conf}, dag_run_id="check")


def find_dag(dag_id: str) -> DAG:
    """Read a DAG from the DAGs folder.

    Raises:
        RequestError: there is none of this name, or its file cannot be read.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag()
    dag = bag.dags.get(dag_id)
    if dag is None:
        broken = "; ".join(str(error).strip().splitlines()[-1] for error in bag.import_errors.values())
        hint = f"; a file cannot be read: {broken}" if broken else ""
        raise RequestError(f"DAG {dag_id!r} is unknown; choose from: {', '.join(sorted(bag.dags))}{hint}")
    return dag


def main(arguments: list[str] | None = None) -> int:
    """Check and return an exit code: 0, or that of the failure, told in one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.conf", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("conf", nargs="?", default="{}", help="JSON object of Params")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: check_conf(find_dag(options.dag_id), options.conf))


if __name__ == "__main__":
    sys.exit(main())

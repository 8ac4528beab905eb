"""Runs a DAG once on this machine: `python -m pipeline run DAG_ID [CONF]`.

Like `airflow dags test` it needs no scheduler. In addition, a wrong configuration is refused in one line before
anything starts, the same command resumes a run that was killed, and a table at the end shows what each stage did.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.command.conf import check_conf
from pipeline.command.unfinished import claim
from tasks.errors import RequestError
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

GRACE = 5.0  # seconds for a stage to end when the command is stopped; Airflow allows the same time
AGAIN = "the same command resumes it; with ANEW=1 a new run starts"


def run(dag_id: str, conf: Mapping[str, Any], *, anew: bool = False) -> bool:
    """Resume the unfinished run of a DAG with this configuration, or start a new one, and print what each stage did.

    Returns:
        Whether it succeeded; if not, its tasks have logged why.

    Raises:
        RequestError: the DAG is unknown, its configuration is wrong, or the same command is already running.
    """
    with _summary(dag_id) as summarize:
        dag = find_dag(dag_id)
        check_conf(dag, conf)
        started = time.monotonic()
        with claim(dag_id, conf, load_settings(), anew=anew) as taken, _stoppable(dag_id):
            if taken.resumed:
                since = f"{taken.date:%Y-%m-%d %H:%M}"
                print(f"{dag_id}: resuming the run of {since} UTC; ANEW=1 starts a new one", flush=True)
            with _prewarmed(dag, taken.date, conf):
                dag_run = dag.test(run_after=taken.date, logical_date=taken.date, run_conf=dict(conf))
            succeeded = bool(dag_run.state == "success")
            taken.ended = succeeded or not _is_worth_resuming(dag_run)
        seconds = time.monotonic() - started
        print(f"\n{dag_id} {'finished' if succeeded else 'failed'} after {seconds:.0f} s", end="")
        print("\n" if taken.ended else f"; {AGAIN}\n", flush=True)
        summarize(dag_run.run_id)
    return succeeded


def find_dag(dag_id: str) -> DAG:
    """Load a DAG from the DAGs folder.

    Raises:
        RequestError: there is no DAG of this name, or its file cannot be imported.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag()
    dag = bag.dags.get(dag_id)
    if dag is None:
        broken = "; ".join(str(error).strip().splitlines()[-1] for error in bag.import_errors.values())
        hint = f"; a DAG file cannot be imported: {broken}" if broken else ""
        raise RequestError(f"DAG {dag_id!r} is unknown; choose from: {', '.join(sorted(bag.dags))}{hint}")
    return dag


def _prewarmed(dag: DAG, date: datetime, conf: Mapping[str, Any]) -> AbstractContextManager[None]:
    from airflow.models.dagrun import DagRun
    from airflow.utils.types import DagRunType

    from pipeline.local.operator import prewarmed_stages

    run_id = DagRun.generate_run_id(run_type=DagRunType.MANUAL, logical_date=date, run_after=date)
    return prewarmed_stages(dag, run_id, {**dag.params.dump(), **conf})


@contextmanager
def _summary(dag_id: str) -> Iterator[Callable[[str], object]]:
    """Start the process that prints the table at the end; yields a function that sends it the run ID and waits for it.

    MLflow takes seconds to import, so that process imports it while Airflow starts. It has its own session, so that
    Ctrl-C does not reach it, and ends when this process does, because its standard input is then closed.
    """
    command = [sys.executable, "-m", "tasks", "summary", dag_id, "--dag-run-id", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:  # noqa: S603
        try:
            yield process.communicate
        except BaseException:
            process.kill()
            raise


def _is_worth_resuming(dag_run: DagRun) -> bool:
    """Tell whether a failed run may succeed later: a task used up its retries, so its failure was not permanent."""
    return any(task.state == "failed" and task.try_number > task.max_tries for task in dag_run.get_task_instances())


@contextmanager
def _stoppable(dag_id: str) -> Iterator[None]:
    """End the process on SIGINT and SIGTERM; Airflow alone would count the stopped stage as failed and retry it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Not by signal handlers: Airflow installs its own for each task. Python also writes each signal's number here.
    before = signal.set_wakeup_fd(writing)
    threading.Thread(target=_end_on_signal, args=(reading, dag_id), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _end_on_signal(reading: int, dag_id: str) -> None:
    while number := os.read(reading, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            os.write(1, f"\n{dag_id}: stopped; {AGAIN}\n".encode())
            devnull = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):  # Airflow would print a page of traceback
                os.dup2(devnull, stream)
            time.sleep(GRACE)
            os._exit(128 + number[0])
    os.close(reading)

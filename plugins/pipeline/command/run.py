"""Runs a DAG once on this machine: `python -m pipeline.command.run DAG_ID [CONF] [--param NAME=VALUE] [--anew]`.

As `airflow dags test` does, without a scheduler, with three things more: a wrong configuration is one line and starts
nothing, a run that was killed goes on with the same command, and a table at the end says what was done.
"""

from __future__ import annotations

import argparse
import gc
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

from pipeline.command.conf import check_conf, parse_conf
from pipeline.command.unfinished import claim
from tasks import GC_THRESHOLDS
from tasks.errors import RequestError, exit_code_of
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

GRACE = 5.0  # seconds that a stage has to end when the command is stopped; Airflow gives as many
AGAIN = "the same command goes on where it stopped; with ANEW=1 it starts from the beginning"


def run(dag_id: str, conf: Mapping[str, Any], *, anew: bool = False) -> bool:
    """Run a DAG to its end, the run that did not end with this configuration or a new one, and print what it did.

    Returns:
        whether it ended well; if not, its tasks have said why.

    Raises:
        RequestError: the DAG or its configuration is wrong, or the same is running already.
    """
    with _summary(dag_id) as summarize:
        dag = find_dag(dag_id)
        check_conf(dag, conf)
        started = time.monotonic()
        with claim(dag_id, conf, load_settings(), anew=anew) as taken, _stoppable(dag_id):
            if taken.resumed:
                since = f"{taken.date:%Y-%m-%d %H:%M}"
                print(f"{dag_id}: going on with the run of {since} UTC; ANEW=1 starts a new one", flush=True)
            with _prewarmed(dag, taken.date):
                dag_run = dag.test(run_after=taken.date, logical_date=taken.date, run_conf=dict(conf))
            well = bool(dag_run.state == "success")
            taken.ended = well or not _may_pass(dag_run)
        seconds = time.monotonic() - started
        print(f"\n{dag_id} {'finished' if well else 'failed'} after {seconds:.0f} s", end="")
        print("\n" if taken.ended else f"; {AGAIN}\n", flush=True)
        summarize(dag_run.run_id)
    return well


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
    """Run a DAG; 0 when it ended well, 1 when it failed, else the code of `tasks.errors` in one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.command.run", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("conf", nargs="?", default="{}", help="JSON object of Params")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="one more, over CONF")
    parser.add_argument("--anew", action="store_true", help="leave a run that did not end as it is; start a new one")
    options = parser.parse_args(arguments)
    gc.set_threshold(*GC_THRESHOLDS)
    ended: list[bool] = []

    def work() -> None:
        ended.append(run(options.dag_id, parse_conf(options.conf, options.param), anew=options.anew))

    return exit_code_of(work) or int(not ended[0])


def _prewarmed(dag: DAG, date: datetime) -> AbstractContextManager[None]:
    from airflow.models.dagrun import DagRun
    from airflow.utils.types import DagRunType

    from pipeline.local.operator import prewarmed_stages

    run_id = DagRun.generate_run_id(run_type=DagRunType.MANUAL, logical_date=date, run_after=date)
    return prewarmed_stages(dag, run_id)


@contextmanager
def _summary(dag_id: str) -> Iterator[Callable[[str], object]]:
    """Begin the process that prints the table at the end; yields what gives it the run's ID and waits for it.

    MLflow takes seconds to import and no plugin needs it: a process of its own does that while Airflow starts. It has
    a session of its own, for Ctrl-C is not for it, and ends when this process does: nothing comes down its pipe then.
    """
    command = [sys.executable, "-m", "tasks.cli.summary", dag_id, "--dag-run-id", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:  # noqa: S603
        try:
            yield process.communicate
        except BaseException:
            process.kill()
            raise


def _may_pass(dag_run: DagRun) -> bool:
    """Tell whether a failed run is worth going on with: a task that used up all its tries did not fail for good."""
    return any(task.state == "failed" and task.try_number > task.max_tries for task in dag_run.get_task_instances())


@contextmanager
def _stoppable(dag_id: str) -> Iterator[None]:
    """End the process on SIGINT and SIGTERM: Airflow ends the stage, takes it for a failed try, and would try again."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Not handlers of our own: Airflow installs its own for each task. The number of a signal is written here as well.
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
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):  # what Airflow has to say of it is a page of traceback
                os.dup2(nowhere, stream)
            time.sleep(GRACE)
            os._exit(128 + number[0])
    os.close(reading)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

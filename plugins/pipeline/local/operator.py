"""Stages as processes on this machine, in Airflow's own environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

import tasks
from pipeline.local.prewarmed import Standby
from pipeline.local.process import StageProcess
from pipeline.operator.job import StageJob
from pipeline.operator.outcome import StageOutcome
from pipeline.operator.stage_operator import StageOperator
from tasks.contract.messages import TaskIdentity

if TYPE_CHECKING:
    from airflow.sdk import DAG

KEY_VARIABLE = "PIPELINE_STAGE_KEY"
GROUP_VARIABLE = "PIPELINE_STAGE_GROUP"
OF_THIS_TRY = ("AIRFLOW_CTX_", "__AIRFLOW_")  # what Airflow tells its task; a stage knows all of that from its request


class LocalStageOperator(StageOperator):
    """Runs `python -m tasks STAGE` as a `pipeline.process`."""

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "tasks")
    grace: ClassVar[float] = 3.0  # seconds from SIGTERM to SIGKILL; Airflow kills the task itself after five
    standby: ClassVar[Standby | None] = None  # set by `standing_by`

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._process: StageProcess | None = None

    def carry_out(self, job: StageJob) -> StageOutcome:
        """Run the stage, its output streamed line by line into the task's log."""
        waiting = self.standby.take(job.key, self._variables(job.key)) if self.standby else None
        end_leftovers(job.key, self.grace, spare=waiting.pid if waiting else None)
        self._process = process = waiting or self.start(job.key)
        try:
            return process.run(job.request.model_dump_json(), lambda line: self.log.info("%s", line))
        finally:
            process.close()

    def on_kill(self) -> None:
        """End the stage's process group."""
        if self._process is not None:
            self._process.stop()

    def start(self, key: str) -> StageProcess:
        """Start the stage's process for the task of this key; its request comes later."""
        return StageProcess(self.stage, self.command, self._variables(key), self.grace)

    def _variables(self, key: str) -> dict[str, str]:
        """Airflow's environment, so that the stage's settings are the operator's, and `tasks` importable anywhere."""
        root = str(Path(tasks.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(OF_THIS_TRY)},
            **self.environment,
            KEY_VARIABLE: key,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }


@contextmanager
def standing_by(dag: DAG, dag_run_id: str) -> Iterator[None]:
    """Have the local stages of a DAG run start before their turn, while all its tasks run in this process."""
    in_order = dag.topological_sort()  # type: ignore[no-untyped-call]
    stages = [task for task in in_order if isinstance(task, LocalStageOperator)]
    keys = (TaskIdentity(dag_id=dag.dag_id, dag_run_id=dag_run_id, task_id=task.task_id).key for task in stages)
    standby = Standby({key: partial(task.start, key) for key, task in zip(keys, stages, strict=True)})
    LocalStageOperator.standby = standby
    try:
        yield
    finally:
        LocalStageOperator.standby = None
        standby.close()


def end_leftovers(key: str, grace: float, *, spare: int | None = None) -> None:
    """End what an earlier try of the same task left running, should even its leash have been killed.

    A stage knows its key and its process group from two environment variables. A process that inherited them but
    left the group, as a service that `deploy` started has, is no leftover; nor is the group `spare`.
    """
    groups = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, KeyError):
            variables = process.environ()
            if variables.get(KEY_VARIABLE) == key:
                group = os.getpgid(process.pid)
                if variables[GROUP_VARIABLE] == str(group) and group != spare:
                    groups.add(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            members = [process for process in psutil.process_iter() if _group_of(process.pid) == group]
            os.killpg(group, signal.SIGTERM)
            psutil.wait_procs(members, timeout=grace)
            os.killpg(group, signal.SIGKILL)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None

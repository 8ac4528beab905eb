"""Stages as processes on this machine, in Airflow's own environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

import tasks
from pipeline.local.prewarmed import PrewarmedStages
from pipeline.local.process import StageProcess
from pipeline.operator.job import StageJob
from pipeline.operator.outcome import StageOutcome
from pipeline.operator.stage_operator import StageOperator
from tasks.contract.messages import TaskIdentity

if TYPE_CHECKING:
    from airflow.sdk import DAG

KEY_VARIABLE = "PIPELINE_STAGE_KEY"
GROUP_VARIABLE = "PIPELINE_STAGE_GROUP"
OF_THIS_TRY = ("AIRFLOW_CTX_", "__AIRFLOW_")  # set by Airflow per try; a stage has all of it in its request


class LocalStageOperator(StageOperator):
    """Runs `python -m tasks STAGE` in a `pipeline.local.process.StageProcess`."""

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "tasks")
    grace: ClassVar[float] = 3.0  # seconds from SIGTERM to SIGKILL; Airflow kills the task itself after five
    prewarmed: ClassVar[PrewarmedStages | None] = None  # set by `prewarmed_stages`

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._process: StageProcess | None = None

    def run_job(self, job: StageJob) -> StageOutcome:
        """Run the stage; its output is streamed line by line into the task's log."""
        ready = self.prewarmed.take(job.key, self._variables(job.key)) if self.prewarmed else None
        end_leftovers(job.key, self.grace, spare=ready.pid if ready else None)
        self._process = process = ready or self.start(job.key)
        try:
            return process.run(job.request.model_dump_json(), lambda line: self.log.info("%s", line))
        finally:
            process.close()

    def on_kill(self) -> None:
        """Stop the stage's process group."""
        if self._process is not None:
            self._process.stop()

    def start(self, key: str) -> StageProcess:
        """Start the stage's process for the task with this key; its request is sent later."""
        return StageProcess(self.stage, self.command, self._variables(key), self.grace)

    def _variables(self, key: str) -> dict[str, str]:
        """Airflow's environment, so that stage and operator read the same settings; `tasks` is importable anywhere."""
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
def prewarmed_stages(dag: DAG, dag_run_id: str, params: Mapping[str, Any]) -> Iterator[None]:
    """Start local stages of a DAG run early, so that their imports are done; all its tasks run in this process.

    What the run leaves out by its Params is not started.
    """
    in_order = dag.topological_sort()  # type: ignore[no-untyped-call]
    stages = [task for task in in_order if isinstance(task, LocalStageOperator) and not task.left_out(params)]
    keys = (TaskIdentity(dag_id=dag.dag_id, dag_run_id=dag_run_id, task_id=task.task_id).key for task in stages)
    prewarmed = PrewarmedStages({key: partial(task.start, key) for key, task in zip(keys, stages, strict=True)})
    LocalStageOperator.prewarmed = prewarmed
    try:
        yield
    finally:
        LocalStageOperator.prewarmed = None
        prewarmed.close()


def end_leftovers(key: str, grace: float, *, spare: int | None = None) -> None:
    """Stop what an earlier try of the same task left running, in case its supervisor was killed too.

    Two environment variables hold a stage's key and its process group. A process that inherited them but left the
    group, such as a service that `deploy` started, is not a leftover; nor is the group `spare`.
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

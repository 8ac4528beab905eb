"""Stages as processes on this machine, in Airflow's own environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import psutil

import tasks
from pipeline import leash
from pipeline.base import StageOperator
from pipeline.job import StageJob
from pipeline.outcome import LINES_KEPT, StageOutcome

KEY_VARIABLE = "PIPELINE_STAGE_KEY"
GROUP_VARIABLE = "PIPELINE_STAGE_GROUP"


class LocalStageOperator(StageOperator):
    """Runs `python -m tasks STAGE` in a process group of its own, on a leash (`pipeline.leash`)."""

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "tasks")
    grace: ClassVar[float] = 3.0  # seconds from SIGTERM to SIGKILL; Airflow kills the task itself after five

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._process: subprocess.Popen[str] | None = None

    def carry_out(self, job: StageJob) -> StageOutcome:
        """Run the stage, its output streamed line by line into the task's log."""
        end_leftovers(job.key, self.grace)
        with tempfile.TemporaryDirectory(prefix="stage-") as name:
            folder = Path(name)
            request, result = folder / "request.json", folder / "return.json"
            request.write_text(job.request.model_dump_json(), encoding="utf-8")
            lines: deque[str] = deque(maxlen=LINES_KEPT)
            lifeline, held = os.pipe()
            try:
                with request.open(encoding="utf-8") as stdin:
                    self._process = process = subprocess.Popen(  # noqa: S603  # the arguments are ours, no shell
                        self._command(job.stage, lifeline, result),
                        stdin=stdin,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        env=self._variables(job),
                        text=True,
                        encoding="utf-8",
                        errors="replace",
                        pass_fds=(lifeline,),
                        start_new_session=True,
                    )
                assert process.stdout is not None  # noqa: S101  # a pipe was asked for
                for line in process.stdout:
                    lines.append(line.rstrip())
                    self.log.info("%s", lines[-1])
                code = process.wait()
            finally:
                self.on_kill()
                os.close(held)
                os.close(lifeline)
            answer = result.read_bytes() if result.exists() else None
        return StageOutcome(code, answer, tuple(lines))

    def on_kill(self) -> None:
        """End the stage's process group."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        # The leash stays until the stage is gone. Not psutil here: it would reap our child and lose its exit code.
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _command(self, stage: str, lifeline: int, result: Path) -> list[str]:
        on_leash = [sys.executable, "-I", leash.__file__, str(lifeline), str(self.grace)]
        return [*on_leash, *self.command, stage, "--request", "-", "--result", str(result)]

    def _variables(self, job: StageJob) -> dict[str, str]:
        """Airflow's environment, so that the stage's settings are the operator's, and `tasks` importable anywhere."""
        root = str(Path(tasks.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        return {
            **os.environ,
            **self.environment,
            KEY_VARIABLE: job.key,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }


def end_leftovers(key: str, grace: float) -> None:
    """End what an earlier try of the same task left running, should even its leash have been killed.

    A stage knows its key and its process group from two environment variables. A process that inherited them but
    left the group, as a service that `deploy` started has, is no leftover.
    """
    groups = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, KeyError):
            variables = process.environ()
            if variables.get(KEY_VARIABLE) == key:
                group = os.getpgid(process.pid)
                if variables[GROUP_VARIABLE] == str(group):
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

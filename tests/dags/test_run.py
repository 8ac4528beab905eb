"""`python -m pipeline run`, which `make run` calls: a run that failed, failed permanently, or was stopped."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.command.conf import parse_conf
from tasks.errors import RequestError
from tests.dags.forked import Forked, Forks

# The command with a stub for the stages, and without pauses between tries where they fail.
COMMAND = """
import json, os, sys
from datetime import timedelta
import pipeline.command.run
from pipeline.__main__ import commands
from pipeline.local.operator import LocalStageOperator
from run_scenarios import STUB, quicker
quicker()
folder = sys.argv.pop(1)
open(folder + "/stub.py", "w").write(STUB)
LocalStageOperator.command = (sys.executable, folder + "/stub.py")
find = pipeline.command.run.find_dag
def impatient(dag_id):
    dag = find(dag_id)
    for task in dag.tasks if "fail" in os.environ["STUB"] else []:
        task.retry_delay = task.max_retry_delay = timedelta(0)
    return dag
pipeline.command.run.find_dag = impatient
commands()
"""
RESUMES = "the same command resumes it; with ANEW=1 a new run starts"


class Machine:
    """A home, and the command in it; what the stages were asked is in its file of calls."""

    def __init__(self, home: Path, airflow: dict[str, str], forks: Forks) -> None:
        self.home = home
        self.forks = forks
        self.calls_file = home / "calls"
        self.variables = airflow | {"PIPELINE_HOME": str(home), "STUB_CALLS": str(self.calls_file)}

    def start(self, *arguments: str, **stub: Any) -> Forked:
        """Start the command, with the stub's variables."""
        command = (COMMAND, str(self.home), "run", "daily_training", *arguments)
        return self.forks.start(*command, variables=self.variables | {"STUB": json.dumps(stub)}, merged=True)

    def run(self, *arguments: str, **stub: Any) -> tuple[int, str]:
        """Run the command to its end."""
        process = self.start(*arguments, **stub)
        return process.wait(600), process.output.read_text()

    def calls(self) -> list[tuple[str, str]]:
        """Stage and DAG run of every call of a stage so far."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [(stage, request["task"]["dag_run_id"]) for stage, request in map(json.loads, lines)]

    def unfinished(self) -> list[Path]:
        """What there is to resume."""
        return list((self.home / "unfinished").iterdir())


@pytest.fixture
def machine(tmp_path: Path, airflow: dict[str, str], forks: Forks) -> Machine:
    return Machine(tmp_path, airflow, forks)


def test_a_run_whose_failure_may_go_away_is_resumed_until_it_failed_permanently(machine: Machine) -> None:
    code, said = machine.run(fail="train", code=69)
    assert code == 1, said
    assert f"daily_training failed after {said.split(' failed after ')[1].split()[0]} s; {RESUMES}" in said
    assert [stage for stage, _ in machine.calls()] == ["prepare", "train", "train", "train"]
    assert len(machine.unfinished()) == 1

    code, said = machine.run(fail="train", code=65)
    assert code == 1, said
    assert "daily_training: resuming the run of" in said
    assert RESUMES not in said
    assert len(machine.calls()) == 6
    assert len({dag_run for _, dag_run in machine.calls()}) == 1
    assert machine.unfinished() == []


def test_a_run_that_is_stopped_ends_its_stage_and_tries_nothing_again(machine: Machine) -> None:
    process = machine.start(sleep="train")
    deadline = time.monotonic() + 600
    while [stage for stage, _ in machine.calls()] != ["prepare", "train"]:
        assert time.monotonic() < deadline, machine.calls()
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    stages = [child for child in children if "stub.py" in _line(child)]
    table = [child for child in children if "-m tasks summary" in _line(child)]
    started = {line.split("stub.py ")[1].split()[0] for line in map(_line, stages)}
    assert started == {"train", "evaluate", "register"}  # two wait for their turn
    assert len(table) == 1
    process.terminate()
    code, said = process.wait(600), process.output.read_text()
    assert code == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1] == f"daily_training: stopped; {RESUMES}"
    assert psutil.wait_procs(stages, timeout=600)[1] == []
    assert len(machine.calls()) == 2
    assert len(machine.unfinished()) == 1
    assert psutil.wait_procs(table, timeout=600)[1] == []  # what would print the table ends too, and printed nothing


@pytest.mark.parametrize("text", ["trials", "=3", ""])
def test_a_value_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not NAME=VALUE; write trials=20"):
        parse_conf("{}", [text])


def test_a_value_is_put_over_the_configuration_with_its_type() -> None:
    conf = parse_conf('{"trials": 5, "epochs": 2}', ["trials=20", "dataset=digits"])
    assert conf == {"trials": 20, "epochs": 2, "dataset": "digits"}


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

"""The local runtime with real processes: a small script takes the place of `python -m tasks`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from airflow.sdk import DAG, TaskGroup

from pipeline.local import process
from pipeline.local.operator import (
    GROUP_VARIABLE,
    KEY_VARIABLE,
    LocalStageOperator,
    end_leftovers,
    prewarmed_stages,
)
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task
from tasks.contract.messages import TaskIdentity
from tasks.errors import PermanentError, PipelineError, ResultError

RUN_ID = "12e45678901234567890123456789012"
Run = Callable[..., dict[str, Any]]


def context(conf: dict[str, Any] | None = None) -> Any:
    return {
        "ti": SimpleNamespace(run_id="manual__1", map_index=-1),
        "dag_run": SimpleNamespace(conf=conf),
        "params": conf or {},
    }


@pytest.fixture
def make(stub: tuple[str, ...]) -> Callable[[str], LocalStageOperator]:
    class Stubbed(LocalStageOperator):
        command = stub
        grace = 0.5

    def make_task(code: str) -> LocalStageOperator:
        with DAG("d"):
            return Stubbed(
                task_id="register",
                stage="register",
                request_fields={"evaluate_run_id": RUN_ID, "approval": {}},
                environment={"STUB": textwrap.dedent(code)},
            )

    return make_task


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not alive(pid)


def wait_for(path: Path, seconds: float = 300) -> str:
    limit = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < limit, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


def test_success_gives_the_checked_result_with_its_types(make: Callable[[str], LocalStageOperator]) -> None:
    result = make("assert request['evaluate_run_id'] == '12e45678901234567890123456789012'; answer()").run_stage(
        context()
    )
    assert result["run_id"] == RUN_ID
    assert (result["version"], result["promoted"], result["previous_champion"]) == (3, True, None)


class TaskLog(list[str]):
    """The task's log as a list; says on disk which line it has seen last."""

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    def info(self, text: str, *values: object) -> None:
        self.append(text % values)
        self.seen.write_text(self[-1])


def test_output_goes_to_the_task_log_while_the_stage_runs(
    make: Callable[[str], LocalStageOperator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_log = TaskLog(tmp_path / "seen")
    task = make(
        f"""
        print("epoch 1")
        limit = time.monotonic() + 600
        while open({str(task_log.seen)!r}).read() != "epoch 1":
            assert time.monotonic() < limit, "the line waited in a buffer"
            time.sleep(0.01)
        print("to stderr", file=sys.stderr)
        answer()
        """
    )
    monkeypatch.setattr(LocalStageOperator, "log", task_log)
    task.run_stage(context())
    assert task_log[1:3] == ["epoch 1", "to stderr"]
    assert task_log[-2].startswith("register: done in 0.5 s: registered_model=m, version=3")
    assert task_log[-1].endswith(f"/#/experiments/7/runs/{RUN_ID}")


@pytest.mark.parametrize("code", [64, 65, 70, 76, 78])
def test_permanent_codes_are_permanent(make: Callable[[str], LocalStageOperator], code: int) -> None:
    line = "2026-01-31 06:00:00,000 ERROR tasks: DataError: it is empty"
    with pytest.raises(PermanentError, match=f"exit code {code}: DataError: it is empty"):
        make(f"print({line!r}); sys.exit({code})").run_stage(context())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("sys.exit(1)", "exit code 1"),
        ("raise ValueError('odd')", "exit code 1: ValueError: odd"),
        ("print('x'); sys.exit(69)", "exit code 69"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "exit code 137: killed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "exit code 143: asked to stop"),
    ],
)
def test_other_failures_may_be_tried_again(make: Callable[[str], LocalStageOperator], code: str, text: str) -> None:
    with pytest.raises(PipelineError) as failure:
        make(code).run_stage(context())
    assert not isinstance(failure.value, PermanentError)
    assert text in str(failure.value)


def test_the_kernel_says_whether_a_kill_was_for_lack_of_memory(
    make: Callable[[str], LocalStageOperator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 1\noom_kill 5\n")
    monkeypatch.setattr(process, "VMSTAT", vmstat)
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(PipelineError, match="by a person or a program; the kernel killed nothing"):
        make(kill).run_stage(context())
    with pytest.raises(PipelineError, match=r"while the kernel killed 2 process\(es\) for lack of memory"):
        make(f"open({str(vmstat)!r}, 'w').write('oom_kill 7\\n'); {kill}").run_stage(context())
    vmstat.unlink()
    with pytest.raises(PipelineError, match="most often because the machine ran out of memory"):
        make(kill).run_stage(context())


@pytest.mark.parametrize("code", ["pass", "open(result, 'w').write('{')", "answer(version='three')", "answer(more=1)"])
def test_a_missing_or_malformed_result_is_permanent(make: Callable[[str], LocalStageOperator], code: str) -> None:
    with pytest.raises(ResultError):
        make(code).run_stage(context())


def test_on_kill_asks_first_and_then_insists(make: Callable[[str], LocalStageOperator], tmp_path: Path) -> None:
    pid_file, asked = tmp_path / "pid", tmp_path / "asked"
    task = make(
        f"""
        signal.signal(signal.SIGTERM, lambda *_: open({str(asked)!r}, "w").write("yes"))
        open({str(pid_file)!r}, "w").write(str(os.getpid()))
        while True:
            time.sleep(0.05)
        """
    )
    killer = threading.Thread(target=lambda: (wait_for(pid_file), task.on_kill()))
    killer.start()
    with pytest.raises(PipelineError, match="exit code"):
        task.run_stage(context())
    killer.join()
    assert asked.read_text() == "yes"
    assert gone_within(int(pid_file.read_text()), 10)


def test_a_timeout_in_the_task_ends_the_stage(make: Callable[[str], LocalStageOperator], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    task = make(f'open({str(pid_file)!r}, "w").write(str(os.getpid())); print("up"); time.sleep(60)')

    def expire(signum: int, frame: object) -> None:
        raise TimeoutError("the task's time is over")

    previous = signal.signal(signal.SIGALRM, expire)
    watcher = threading.Thread(target=lambda: (wait_for(pid_file), os.kill(os.getpid(), signal.SIGALRM)))
    watcher.start()
    try:
        with pytest.raises(TimeoutError):
            task.run_stage(context())
    finally:
        watcher.join()
        signal.signal(signal.SIGALRM, previous)
    assert gone_within(int(pid_file.read_text()), 10)


def test_a_stage_does_not_outlive_a_task_that_was_killed(stub: tuple[str, ...], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    driver = textwrap.dedent(
        f"""
        from types import SimpleNamespace
        from airflow.sdk import DAG
        from pipeline.local.operator import LocalStageOperator
        class Stubbed(LocalStageOperator):
            command = {stub!r}
            grace = 0.5
        with DAG("d"):
            fields = {{"evaluate_run_id": {RUN_ID!r}, "approval": {{}}}}
            task = Stubbed(task_id="register", stage="register", request_fields=fields)
        task.run_stage({{"ti": SimpleNamespace(run_id="manual__1", map_index=-1),
                        "dag_run": SimpleNamespace(conf=None), "params": {{}}}})
        """
    )
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "STUB": f'open({str(pid_file)!r}, "w").write(str(os.getpid())); time.sleep(60)',
    }
    with subprocess.Popen([sys.executable, "-c", driver], env=variables, stdout=subprocess.DEVNULL) as task:
        stage = int(wait_for(pid_file, 60))
        assert alive(stage)
        task.kill()
    assert gone_within(stage, 10)


def orphan(key: str, tmp_path: Path, *, own_session: bool) -> subprocess.Popen[bytes]:
    """Start a process that knows `key`; `own_session`: it left the stage's group, as a service does."""
    ready = tmp_path / f"ready-{key.replace('/', '-')}-{own_session}"
    code = textwrap.dedent(
        f"""
        import os, sys, time
        if os.environ.get({GROUP_VARIABLE!r}) is None:
            os.environ[{GROUP_VARIABLE!r}] = str(os.getpgid(0)) if not {own_session} else "1"
            os.execv(sys.executable, sys.orig_argv)
        open({str(ready)!r}, "w").write("yes")
        time.sleep(60)
        """
    )
    variables = {**os.environ, KEY_VARIABLE: key}
    process = subprocess.Popen([sys.executable, "-c", code], env=variables, start_new_session=True)
    wait_for(ready)
    return process


def test_only_the_same_tasks_leftover_is_ended(tmp_path: Path) -> None:
    leftover = orphan("d/r/t/-1", tmp_path, own_session=False)
    other = orphan("d/r/t/-2", tmp_path, own_session=False)
    service = orphan("d/r/t/-1", tmp_path, own_session=True)
    try:
        end_leftovers("d/r/t/-1", grace=2)
        assert [alive(process.pid) for process in (leftover, other, service)] == [False, True, True]
    finally:
        for process in (leftover, other, service):
            process.kill()
            process.wait()


def test_a_real_stage_is_found_from_anywhere_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with DAG("d"):
        task = LocalStageOperator(task_id="prepare", stage="prepare")
    job = task.job(context())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    outcome = task.run_job(job)
    assert outcome.exit_code == 78
    assert any("MLFLOW_TRACKING_PASSWORD together" in line for line in outcome.last_lines)


@pytest.mark.parametrize(
    ("compress", "expected"), [("none", ["prepare"]), ("int8", ["prepare", "compression.compress"])]
)
def test_only_what_the_run_needs_is_started_early(
    monkeypatch: pytest.MonkeyPatch, compress: str, expected: list[str]
) -> None:
    started: list[str] = []

    def start(task: LocalStageOperator, key: str) -> SimpleNamespace:
        started.append(TaskIdentity.task_of(key))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(LocalStageOperator, "start", start)
    with DAG("d", params=stage_params("prepare", "compress", optional={"compress": "none"})) as dag:
        prepare = stage_task("prepare")
        with TaskGroup("compression"):
            prepare >> stage_task("compress", trained_by=RUN_ID)
    with prewarmed_stages(dag, "r", {**dag.params.dump(), "compress": compress}):
        assert started == expected

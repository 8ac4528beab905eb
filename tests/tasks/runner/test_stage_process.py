from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import tasks.stages.register as stage
from tasks.contract.data import PrepareResult
from tasks.contract.promotion import RegisterRequest, RegisterResult
from tasks.errors import DataError
from tasks.records import tracking
from tasks.records.tracking import StageRun
from tasks.runner import stage_process as runner
from tasks.settings import Settings

RUN_ID = "0" * 32
REQUEST = json.dumps(
    {
        "task": {"dag_id": "daily", "dag_run_id": "r1", "task_id": "register"},
        "evaluate_run_id": RUN_ID,
        "approval": {},
    }
)
Body = Callable[[RegisterRequest, StageRun, Settings], Any]


def registered(request: RegisterRequest, run: StageRun, settings: Settings) -> RegisterResult:
    return RegisterResult(
        **run.result_fields,
        registered_model="m",
        version=1,
        created=True,
        promoted=True,
        previous_champion=None,
        reason="first",
    )


@pytest.fixture
def run_stage(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Body], tuple[int, Path]]:
    def call(body: Body) -> tuple[int, Path]:
        monkeypatch.setattr(stage, "run", body)
        result = tmp_path / "xcom" / "return.json"
        return runner.run_stage("register", REQUEST, result), result

    return call


def test_result_is_written_and_kept_with_its_run(run_stage: Callable[[Body], tuple[int, Path]]) -> None:
    code, path = run_stage(registered)
    assert code == 0
    result = RegisterResult.model_validate_json(path.read_text())
    assert result.version == 1
    assert MlflowClient().get_run(result.run_id).data.tags[tracking.RESULT_TAG] == result.model_dump_json()
    assert [file.name for file in path.parent.iterdir()] == ["return.json"]


def test_a_known_failure_is_one_line_and_its_code(
    run_stage: Callable[[Body], tuple[int, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise DataError("source '/nowhere' does not exist; give a folder")

    code, path = run_stage(fail)
    assert code == 65
    assert not path.exists()
    assert caplog.messages[-1] == "DataError: source '/nowhere' does not exist; give a folder"


def test_an_unknown_failure_keeps_its_traceback_and_is_retried(
    run_stage: Callable[[Body], tuple[int, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("bug")

    code, _ = run_stage(fail)
    assert code == 1
    assert "KeyError" in caplog.text


def test_an_old_answer_never_passes_for_this_one(run_stage: Callable[[Body], tuple[int, Path]]) -> None:
    _, path = run_stage(registered)

    def fail(*_: object) -> None:
        raise DataError("no")

    code, again = run_stage(fail)
    assert code == 65
    assert again == path
    assert not path.exists()


def test_a_result_of_another_stage_is_refused(run_stage: Callable[[Body], tuple[int, Path]]) -> None:
    def other(request: RegisterRequest, run: StageRun, settings: Settings) -> PrepareResult:
        return PrepareResult.model_construct(run_id=run.run_id, seconds=0.0)  # type: ignore[call-arg]  # nobody reads more of it

    code, path = run_stage(other)
    assert code == 70
    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        ConnectionRefusedError("refused"),
        MlflowException("API request failed with Max retries exceeded with url: /api"),
    ],
)
def test_an_absent_server_is_one_line_and_retried(
    run_stage: Callable[[Body], tuple[int, Path]], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("while logging") from error

    code, _ = run_stage(fail)
    assert code == 69
    assert caplog.messages[-1].startswith("UnavailableError: ")


def python_m_tasks(*arguments: str, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks", *arguments],
        input=stdin, capture_output=True, text=True, timeout=600, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_text", "words"),
    [
        ("{not json", "is not JSON"),
        (REQUEST.replace('"evaluate_run_id"', '"evalute_run_id"'), "evalute_run_id: unknown parameter"),
    ],
)
def test_a_bad_request_ends_the_process_with_64_before_anything_is_made(
    settings: Settings, tmp_path: Path, request_text: str, words: str
) -> None:
    before = (settings.pipeline_home / "mlflow.db").read_bytes()
    done = python_m_tasks("register", "--request", "-", "--result", str(tmp_path / "out.json"), stdin=request_text)
    assert done.returncode == 64
    assert done.stdout.count("\n") == 1
    assert words in done.stdout
    assert done.stderr == ""
    assert not (tmp_path / "out.json").exists()
    assert (settings.pipeline_home / "mlflow.db").read_bytes() == before


def test_sigterm_ends_the_run_as_killed(settings: Settings, tmp_path: Path) -> None:
    program = f"""
import sys, time
import tasks.stages.register as stage
from tasks.runner.stage_process import run_stage
def run(request, run, settings):
    print("started", flush=True)
    time.sleep(600)
stage.run = run
sys.exit(run_stage("register", {REQUEST!r}, __import__("pathlib").Path({str(tmp_path / "out.json")!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 143
    assert time.monotonic() - asked < 60
    experiment_id = tracking.connect(settings)
    statuses = {run.info.status for run in MlflowClient().search_runs([experiment_id])}
    assert statuses == {"KILLED"}


@pytest.mark.parametrize("call", [1, 2, 3])
def test_sigterm_while_the_run_is_opened_leaves_none_running(
    settings: Settings, run_stage: Callable[[Body], tuple[int, Path]], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Right after a run was made, before its ID is known, the parent's or the stage's; and after the third write."""
    writes = ("create_run", "update_run")
    made = []
    for name in writes:
        write = getattr(MlflowClient, name)

        def told(self: MlflowClient, *args: Any, _write: Any = write, **kwargs: Any) -> Any:
            answer = _write(self, *args, **kwargs)
            made.append(1)
            if len(made) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return answer

        monkeypatch.setattr(MlflowClient, name, told)
    code, _ = run_stage(registered)
    assert code == 143
    runs = MlflowClient().search_runs([tracking.connect(settings)])
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 2


@pytest.mark.parametrize(("call", "status"), [(1, "KILLED"), (2, "FINISHED"), (3, "FINISHED")])
def test_sigterm_while_the_run_is_ended_ends_the_parent_too(
    settings: Settings,
    run_stage: Callable[[Body], tuple[int, Path]],
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    status: str,
) -> None:
    """The first call is MLflow's own, at the end of its `start_run`; then the stage's run and its parent."""
    end, calls = MlflowClient.set_terminated, []

    def told(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        end(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "set_terminated", told)
    code, path = run_stage(registered)
    assert (code, path.exists()) == (143, False)
    assert {run.info.status for run in MlflowClient().search_runs([tracking.connect(settings)])} == {status}


def test_a_stage_that_is_never_reused_needs_nothing_of_vision(settings: Settings, tmp_path: Path) -> None:
    """The images of register and deploy hold no `tasks.vision`."""
    program = (
        "import sys; sys.modules['tasks.vision'] = None; from pathlib import Path; "
        "from tasks.runner.stage_process import run_stage"
    )
    task = {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}
    request = json.dumps({"task": task, "evaluate_run_id": "0" * 32, "approval": {}})
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; sys.exit(run_stage('register', sys.argv[1], Path(sys.argv[2])))", request,
         str(tmp_path / "return.json")],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "DataError" in done.stderr
    assert done.returncode == DataError.exit_code

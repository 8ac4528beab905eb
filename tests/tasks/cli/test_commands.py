"""The command line `python -m tasks`: help, exit codes, and what it imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks.__main__
from tasks.__main__ import main
from tasks.contract.stages import STAGES
from tasks.errors import UnavailableError
from tasks.records import ledger
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
FOR_PEOPLE = {"history", "rollback-champion", "gc", "tune-results", "inspect", "summary", "sample", "weights"}


def python_m_tasks(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "tasks", *arguments]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


def test_help_lists_every_command_and_imports_no_library_that_takes_seconds() -> None:
    done = python_m_tasks(ROOT, "--help")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2] != " "}
    assert {*FOR_PEOPLE, "serve", "ray-node", "export-onnx", *STAGES} <= listed
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in imported
    assert not {"mlflow", "torch", "ray", "bentoml", "numpy"} & imported


def test_an_image_without_the_commands_for_people_runs_stages(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("cli", "serving", "__pycache__"))
    done = python_m_tasks(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout
    assert "history" not in done.stdout
    assert python_m_tasks(tmp_path, "prepare", "--help").returncode == 0
    assert python_m_tasks(tmp_path, "history").returncode == 2
    # The image of train has one module of `tasks.cli`, and none of the commands for people.
    (tmp_path / "tasks/cli").mkdir()
    for name in ("__init__.py", "export_onnx.py"):
        shutil.copy(ROOT / "tasks/cli" / name, tmp_path / "tasks/cli")
    assert python_m_tasks(tmp_path, "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        ([], "Usage: python -m tasks"),
        (["prepare"], "Missing option '--request'"),
        (["prepare", "--request", "{}", "--reslut", "a"], "No such option '--reslut'"),
        (["history", "--limit", "0"], "0 is not in the range x>=1"),
        (["rollback-champion"], "Missing option '--reason'"),
        (["export-onnx", "--version", "0"], "0 is not in the range x>=1"),
        (["gc", "now"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_a_known_failure_is_one_line_and_its_exit_code(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnavailableError("MLflow is away;\n  start it")

    monkeypatch.setattr(ledger, "history", fail)
    assert main(["history"]) == 69
    assert capsys.readouterr().err == "UnavailableError: MLflow is away; start it\n"


def test_an_unknown_failure_keeps_its_traceback(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "history", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["history"])


def test_ctrl_c_ends_a_command_as_in_a_shell(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "history", interrupt)
    assert main(["history"]) == 130
    assert capsys.readouterr().err == ""


def test_an_empty_history_says_so(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 0
    assert capsys.readouterr().out == "the history is empty: nothing has been promoted, refused or rolled back yet\n"


def test_a_stage_ends_with_its_own_exit_code(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(tasks.__main__, "run_stage", lambda *arguments: asked.append(arguments) or 65)
    assert main(["prepare", "--request", "{}", "--result", str(tmp_path / "a.json")]) == 65
    assert asked == [("prepare", "{}", tmp_path / "a.json")]


def test_serve_becomes_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):  # noqa: N818  # execv does not return
        pass

    def execv(program: str, arguments: list[str]) -> None:
        raise Replaced(arguments[1:])

    monkeypatch.setattr("os.execv", execv)
    with pytest.raises(Replaced) as replaced:
        main(["serve", "--host", "0.0.0.0", "--help"])  # noqa: S104
    assert replaced.value.args[0] == ["-m", "tasks.serving", "--host", "0.0.0.0", "--help"]  # noqa: S104

"""The command line `python -m pipeline`."""

from __future__ import annotations

import pytest

import pipeline.command.run
from pipeline.__main__ import commands
from tasks.errors import RequestError


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        commands(arguments, prog_name="python -m pipeline")
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(("succeeded", "code"), [(True, 0), (False, 1)])
def test_a_run_gets_its_arguments_and_its_outcome_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, succeeded: bool, code: int
) -> None:
    asked = []

    def run(dag_id: str, conf: dict[str, object], *, anew: bool) -> bool:
        asked.append((dag_id, conf, anew))
        return succeeded

    monkeypatch.setattr(pipeline.command.run, "run", run)
    assert ended("run", "daily", '{"epochs": 2}', "--param", "trials=3", "--param", "epochs=4", "--anew") == code
    assert ended("run", "daily", "") == code
    assert asked == [("daily", {"epochs": 4, "trials": 3}, True), ("daily", {}, False)]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [(RequestError("no DAG"), 64, "RequestError: no DAG\n"), (KeyboardInterrupt(), 130, "")],
)
def test_a_failure_before_the_end_has_its_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: BaseException,
    code: int,
    words: str,
) -> None:
    def run(*_: object, **__: object) -> bool:
        raise failure

    monkeypatch.setattr(pipeline.command.run, "run", run)
    assert ended("run", "daily") == code
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("arguments", [["run"], ["run", "daily", "--again"], ["walk"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(*arguments) == 2
    assert "Usage: python -m pipeline" in capsys.readouterr().err

"""Leftover containers: what needs no engine (the rest is in tests/stack/test_gc.py)."""

from __future__ import annotations

import pytest

from deploy.__main__ import main


def test_without_an_engine_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    assert main(["leftover-containers"]) == 69
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("leftover-containers: docker ps: ")
    assert "start Docker Engine" in said.err


def test_without_the_docker_command_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert main(["leftover-containers"]) == 69
    assert "start Docker Engine" in capsys.readouterr().err


def test_days_that_are_negative(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leftover-containers", "--days=-1"]) == 64
    assert "--days=-1 is negative; give 0 or more" in capsys.readouterr().err


def test_days_that_are_not_a_number() -> None:
    with pytest.raises(SystemExit) as exit:
        main(["leftover-containers", "--days=soon"])
    assert exit.value.code == 2

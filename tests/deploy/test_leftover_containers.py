"""Leftover containers: what needs no engine (the rest is in tests/stack/test_gc.py)."""

from __future__ import annotations

import pytest

from deploy import leftover_containers


def test_without_an_engine_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    assert leftover_containers.main([]) == 69
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("docker ps: ")
    assert "start Docker Engine" in said.err


def test_without_the_docker_command_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert leftover_containers.main([]) == 69
    assert "start Docker Engine" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["-1", "soon"])
def test_days_that_are_none(days: str) -> None:
    with pytest.raises(SystemExit) as exit:
        leftover_containers.main([f"--days={days}"])
    assert exit.value.code == 2

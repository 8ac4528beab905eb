"""What `make up` starts beside the stack, and that the stack does not depend on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import engine, up
from deploy.up import EXPORT, FOR_STAGES, start, start_export

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that writes down what it is asked, and fails where a file `broken` lies beside it."""
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ ! -e {tmp_path}/broken ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_export_is_started_and_not_waited_for(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_export(docker / ".env")
    [asked] = (docker / "asked").read_text().splitlines()
    assert asked.endswith(f"up --detach --no-deps --quiet-pull --scale {EXPORT}=1 {EXPORT}")
    assert engine.WORK in asked
    assert "--wait" not in asked
    assert capsys.readouterr().err == ""


def test_the_stack_is_up_even_if_the_export_cannot_start(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (docker / "broken").touch()
    start_export(docker / ".env")
    assert "export-onnx did not start, see above" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("services", "exports"),
    [([], True), ([FOR_STAGES], True), ([FOR_STAGES, "ray-worker"], True), (["airflow-scheduler"], False)],
)
def test_it_belongs_to_the_service(
    docker: Path, monkeypatch: pytest.MonkeyPatch, services: list[str], exports: bool
) -> None:
    monkeypatch.setattr(up, "before", lambda folder, env_file: [])
    monkeypatch.setattr(up, "after", lambda env_file: [])
    start(ROOT, docker / ".env", services)
    started = [line for line in (docker / "asked").read_text().splitlines() if " up " in line]
    assert [engine.STATE in line for line in started] == [True, False, *([False] if exports else [])]
    assert (EXPORT in started[-1]) is exports

"""The programs of `make ui`, with a small web server in their place."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.ui import Program


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program("mlflow", tmp_path)
    yield made
    made.stop()


def server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def test_it_is_started_once_found_again_and_stopped(program: Program, port: int) -> None:
    program.start(port, server(port), os.environ)
    program.wait(f"http://127.0.0.1:{port}/")
    group = program.group()
    assert group is not None
    program.start(port, server(port), os.environ)
    assert Program(program.name, program.home).group() == group
    assert program.stop()
    assert program.group() is None
    assert not program.stop()


def test_a_process_that_got_the_same_id_is_not_ours(program: Program) -> None:
    (program.home / "run").mkdir()
    (program.home / "run/mlflow.pid").write_text(f"{os.getpid()} 1\n")
    assert program.group() is None
    assert not program.stop()


def test_a_port_that_is_taken_is_one_line_with_the_fix(program: Program, port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(DeployError, match=f"port {port} is taken by another program; stop it, or set MLFLOW_PORT"),
    ):
        program.start(port, server(port), os.environ)


def test_one_that_ends_is_explained_by_its_log(program: Program, port: int) -> None:
    program.start(port, [sys.executable, "-c", "raise SystemExit('no disk left')"], os.environ)
    with pytest.raises(DeployError, match=r"mlflow did not start; the end of .*mlflow.log:\nno disk left"):
        program.wait(f"http://127.0.0.1:{port}/")

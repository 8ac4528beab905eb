"""`make user`: what it refuses, what it asks of a server that refuses or is away; the rest is in tests/stack."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.__main__ import main

SECRET = "a-secret-of-the-administrator"


class Refusing(BaseHTTPRequestHandler):
    """A server that knows no administrator."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def refusing() -> Iterator[int]:
    """Port of a server that answers 401."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def env_file(folder: Path, port: int) -> str:
    path = folder / ".env"
    path.write_text(
        f"AIRFLOW_PORT={port}\nAIRFLOW_ADMIN_PASSWORD={SECRET}\n"
        f"MLFLOW_TRACKING_USERNAME=boss\nMLFLOW_TRACKING_PASSWORD={SECRET}\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("", "viewer", "make user NAME=ann"),
        ("ann", "", "make user NAME=ann"),
        ("Ann", "viewer", "NAME='Ann'"),
        ("a/../b", "viewer", "NAME='a/../b'"),
        ("ann", "owner", "choose one of viewer, editor, admin"),
        ("admin", "viewer", "is the administrator"),
        ("boss", "viewer", "is the administrator"),
        ("pipeline-stages", "admin", "those of programs"),
    ],
)
def test_a_name_or_role_that_will_not_do_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, role: str, says: str
) -> None:
    assert main(["user", name, role, "--env-file", env_file(tmp_path, 9)]) == 64
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_without_an_env_file_it_says_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["user", "ann", "viewer", "--env-file", str(tmp_path / ".env")]) == 78
    assert "run make setup" in capsys.readouterr().err


def test_a_stack_that_is_away_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["user", "ann", "viewer", "--env-file", env_file(tmp_path, 9)]) == 69
    )  # the discard port, where nothing listens
    said = capsys.readouterr().err
    assert "Airflow does not answer at http://127.0.0.1:9" in said
    assert "make up" in said


def test_a_refused_administrator_is_one_line_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refusing: int
) -> None:
    assert main(["user", "ann", "viewer", "--env-file", env_file(tmp_path, refusing)]) == 77
    said = capsys.readouterr().err
    assert "Airflow refuses the administrator's password in .env" in said
    assert SECRET not in said

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import SettingsError
from tasks.serving import process
from tasks.serving.__main__ import command, prepare
from tasks.settings import Settings


@pytest.fixture
def stranger() -> int:
    """A process that is not the service, whose number a stale pid file may hold."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child.pid
    child.kill()
    child.wait()


def test_does_not_end_a_program_that_is_not_the_service(tmp_path: Path, stranger: int) -> None:
    process.pid_file(tmp_path).write_text(f"{stranger}\n")
    assert process.find(tmp_path) is None
    assert process.stop(tmp_path) is None
    os.kill(stranger, 0)  # raises if it is gone
    assert not process.pid_file(tmp_path).exists()


@pytest.mark.parametrize("text", ["", "abc", "999999999", "1 2"])
def test_a_useless_pid_file_names_nothing(tmp_path: Path, text: str) -> None:
    process.pid_file(tmp_path).write_text(text)
    assert process.find(tmp_path) is None
    assert process.stop(tmp_path) is None


def test_records_this_process_while_it_serves(tmp_path: Path) -> None:
    with process.recorded(tmp_path / "new"):
        assert process.pid_file(tmp_path / "new").read_text().strip() == str(os.getpid())
        assert process.find(tmp_path / "new") is None  # not a second service: it is this one
    assert not process.pid_file(tmp_path / "new").exists()


def test_the_last_lines_of_the_log_on_one(tmp_path: Path) -> None:
    assert process.last_lines(tmp_path) == "no log"
    process.log_file(tmp_path).write_text("\n".join(map(str, range(9))) + "\n\n")
    assert process.last_lines(tmp_path, 3) == "7 | 8"


def settings_of(home: Path, **more: str) -> Settings:
    return Settings(pipeline_home=home, **more)  # type: ignore[arg-type]


def test_listens_where_the_url_says_or_as_told(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, serving_url="http://localhost:21330")
    with prepare(settings, None, None) as listener:
        assert listener.getsockname() == ("127.0.0.1", 21330)
    with prepare(settings, "0.0.0.0", 21331) as listener:  # noqa: S104
        assert listener.getsockname() == ("0.0.0.0", 21331)  # noqa: S104
    with prepare(settings_of(tmp_path, serving_url="http://[::1]:21330"), None, None) as listener:
        assert listener.getsockname()[:2] == ("::1", 21330)


@pytest.mark.parametrize("url", ["http://serving:3000", "nonsense", "http://127.0.0.1:99999"])
def test_an_address_that_cannot_be_listened_on(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="add --host"):
        prepare(settings_of(tmp_path, serving_url=url), None, None)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} "):
            prepare(settings_of(tmp_path), "127.0.0.1", port)


def test_a_second_service_of_the_same_home(tmp_path: Path, stranger: int) -> None:
    command = [sys.executable, "-c", "input()", "-m", "tasks.serving"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.pid_file(tmp_path).write_text(f"{child.pid}\n")
    try:
        while process.find(tmp_path) is None:  # until the child's exec is through
            time.sleep(0.01)
        with pytest.raises(SettingsError, match=f"has a service already, pid {child.pid}"):
            prepare(settings_of(tmp_path), None, 21332)
    finally:
        child.kill()
        child.wait()


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^0$"):
        command(["--stop"])
    assert capsys.readouterr().out == "no service is running\n"
    monkeypatch.setenv("SERVING_MODEL", "latest")
    with pytest.raises(SystemExit, match=f"^{SettingsError.exit_code}$"):
        command([])
    assert "SERVING_MODEL='latest' names no model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""`python3 -m deploy forward`, with a kubectl that listens where it is told to and leads nowhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.kubernetes import forward
from tests.waiting import until

from .conftest import ROOT

KUBECTL = f"""#!{sys.executable}
import json, os, pathlib, socket, sys, time
if "get" in sys.argv:
    hosts = "mlflow:5000,127.0.0.1:" + os.environ["MLFLOW_PORT"]
    print(json.dumps({{"data": {{"MLFLOW_SERVER_ALLOWED_HOSTS": os.environ.get("HOSTS", hosts)}}}}))
    sys.exit()
pathlib.Path(os.environ["PIDS"], str(os.getpid())).write_text(sys.argv[-2])
if "REFUSES" in os.environ:
    sys.exit("error: unable to forward port because pod is not running. Current status=Pending")
port = int(sys.argv[-1].split(":")[0])
server = socket.create_server(("127.0.0.1", port))
print(f"Forwarding from 127.0.0.1:{{port}} -> 1", flush=True)
time.sleep(600)
"""


def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in (one, other)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the other kubectl, two ports and a folder where it notes its processes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(KUBECTL)
    (tmp_path / "bin/kubectl").chmod(0o755)
    (tmp_path / "pids").mkdir()
    mlflow, serving = free_ports()
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PIDS": str(tmp_path / "pids"), "PYTHONPATH": str(ROOT)}
    return os.environ | own | {"MLFLOW_PORT": str(mlflow), "SERVING_PORT": str(serving)}


def start(environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "deploy", "forward", "--", *command]
    return subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def run(environment: dict[str, str], *command: str) -> tuple[int, str, str]:
    process = start(environment, *command)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def kubectls(environment: dict[str, str]) -> list[int]:
    """Processes of the other kubectl that are alive."""
    pids = [int(path.name) for path in Path(environment["PIDS"]).iterdir()]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "kubectl" in _line(pid)]


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


ASKS = """
import os, socket, sys
for name in ("MLFLOW_PORT", "SERVING_PORT"):
    socket.create_connection(("127.0.0.1", int(os.environ[name])), 5).close()
sys.exit(7)
"""


def test_both_ways_are_open_while_the_command_runs_whose_code_comes_back(environment: dict[str, str]) -> None:
    assert run(environment, sys.executable, "-c", ASKS) == (7, "", "")
    until(lambda: kubectls(environment) == [])
    assert {path.read_text() for path in Path(environment["PIDS"]).iterdir()} == {"service/mlflow", "service/serving"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_gets_the_signal(environment: dict[str, str], number: signal.Signals) -> None:
    script = f"trap 'echo got it; exit 5' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.1; done"
    process = start(environment, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=600)
    assert (process.returncode, out) == (5, "got it\n")
    until(lambda: kubectls(environment) == [])


def test_a_signal_before_the_ways_are_open_ends_it_and_the_command_is_not_started(environment: dict[str, str]) -> None:
    process = start(environment | {"REFUSES": "1"}, "echo", "ran")
    until(lambda: any(Path(environment["PIDS"]).iterdir()))
    process.terminate()
    out, _ = process.communicate(timeout=600)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")


def test_a_command_that_a_signal_ended_has_the_code_that_a_shell_gives(environment: dict[str, str]) -> None:
    assert run(environment, "sh", "-c", "kill -9 $$")[0] == 128 + 9


def test_nothing_is_left_of_one_that_is_killed(environment: dict[str, str]) -> None:
    process = start(environment, "sh", "-c", "echo ready; exec sleep 5")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(kubectls(environment)) == 2
    process.kill()
    until(lambda: kubectls(environment) == [])
    process.communicate(timeout=600)


def test_a_way_that_ends_is_opened_again(environment: dict[str, str]) -> None:
    process = start(environment, "sh", "-c", "echo ready; exec sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    first = kubectls(environment)
    os.kill(first[0], signal.SIGKILL)
    until(lambda: len(kubectls(environment)) == 2 and kubectls(environment) != first)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=600)


def test_a_way_that_cannot_be_opened_is_one_line_with_kubectls_words(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (environment | {"REFUSES": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(forward, "TIMEOUT", 1.0)
    assert main(["forward", "--", "true"]) == 69
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no connection to service/mlflow for 1 s (error: unable to forward port because pod is not running" in error
    assert "run make kubernetes-verify" in error


def test_a_way_that_is_gone_ends_the_command(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(forward, "TIMEOUT", 2.0)
    kubectl = Path(environment["PIDS"]).parent / "bin/kubectl"
    breaks = f"rm {kubectl}; kill $(ls {environment['PIDS']}); exec sleep 600"
    began = time.monotonic()
    assert main(["forward", "--", "sh", "-c", breaks]) == 69
    assert time.monotonic() - began < 120
    assert "no connection to service/" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line_with_the_fix(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(environment["SERVING_PORT"]))):
        code, out, err = run(environment, "true")
    assert (code, out, err.count("\n")) == (69, "", 1)
    assert f"port {environment['SERVING_PORT']} of this machine cannot be used" in err
    assert "or set SERVING_PORT to another" in err


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"MLFLOW_PORT": "http"}, 78, "MLFLOW_PORT='http' is not a port; give a number from 1 to 65535"),
        ({"SERVING_PORT": "65536"}, 78, "SERVING_PORT='65536' is not a port"),
        (
            {"HOSTS": "mlflow:5000,127.0.0.1:5000"},
            78,
            "add it to MLFLOW_SERVER_ALLOWED_HOSTS in the overlay's settings",
        ),
    ],
)
def test_what_cannot_work_is_said_first(
    environment: dict[str, str], changed: dict[str, str], code: int, says: str
) -> None:
    found, out, err = run(environment | changed, "echo", "ran")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert says in err


def test_a_pattern_of_hosts_is_one_that_mlflow_takes(environment: dict[str, str]) -> None:
    assert run(environment | {"HOSTS": "mlflow:5000,127.0.0.1:*"}, "echo", "ran") == (0, "ran\n", "")


def test_a_command_that_is_not_there_is_one_line(environment: dict[str, str]) -> None:
    code, _, err = run(environment, "no-such-command")
    assert (code, err.count("\n")) == (127, 1)
    assert "'no-such-command' cannot be started" in err
    until(lambda: kubectls(environment) == [])

"""`make doctor` on made situations: real files, sockets and servers."""

from __future__ import annotations

import base64
import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import bucket_check, doctor, env_file, setup_env, stack_files

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"S3_ACCESS_KEY": "access", "S3_SECRET_KEY": "secret"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project's files that are looked at, and a fresh `.env`."""
    for name in (*stack_files.FILES, ".env.example"):
        shutil.copy(ROOT / name, tmp_path / name)
    setup_env.setup(tmp_path)
    return tmp_path


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow does to a Host header or a login it does not know."""

    def do_GET(self) -> None:
        right = "Basic " + base64.b64encode(b"admin:right").decode()
        known = self.headers["Host"] in {"mlflow", "mlflow:5000"}
        self.send_response(403 if not known else 200 if self.headers["Authorization"] == right else 401)
        self.end_headers()

    def do_HEAD(self) -> None:
        """As an S3 store to its buckets, each named after the answer."""
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep pytest's output clean."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def closed() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines(findings: list[doctor.Finding], level: str = "fail") -> list[str]:
    return [finding.text for finding in findings if finding.level == level]


def test_a_fresh_env_is_fine(folder: Path) -> None:
    assert doctor.check_env(folder) == [doctor.Finding("ok", ".env", "private and complete")]


def test_a_missing_env_says_how_to_make_one(folder: Path) -> None:
    (folder / ".env").unlink()
    assert lines(doctor.check_env(folder)) == [f"{folder / '.env'} is missing; run make setup"]


def test_a_readable_env_is_named_with_its_mode(folder: Path) -> None:
    (folder / ".env").chmod(0o644)
    [line] = lines(doctor.check_env(folder))
    assert line.startswith("mode 644 lets others read the secrets")
    assert f"chmod 600 {folder / '.env'}" in line


@pytest.mark.parametrize(("value", "wrong"), [("", "is empty"), ("changeme", "is a placeholder")])
def test_a_required_secret_without_a_real_value_is_named(folder: Path, value: str, wrong: str) -> None:
    text = (folder / ".env").read_text()
    secret = env_file.parse(text)["POSTGRES_PASSWORD"]
    (folder / ".env").write_text(text.replace(f"POSTGRES_PASSWORD={secret}", f"POSTGRES_PASSWORD={value}"))
    [line] = lines(doctor.check_env(folder))
    assert line.startswith(f"POSTGRES_PASSWORD {wrong}")


def test_a_misspelt_variable_is_a_warning(folder: Path) -> None:
    with (folder / ".env").open("a") as file:
        file.write("MLFLOW_PROT=5001\n")
    [line] = lines(doctor.check_env(folder), "warn")
    assert line.startswith("nothing reads MLFLOW_PROT")


def test_a_broken_line_is_named_without_its_content(folder: Path) -> None:
    with (folder / ".env").open("a") as file:
        file.write("hunter2\n")
    [line] = lines(doctor.check_env(folder))
    assert "is not NAME=value" in line
    assert "hunter2" not in line


def test_a_taken_port_is_named_with_its_variable(port: int, closed: int) -> None:
    findings = doctor.check_ports({"MLFLOW_PORT": port, "S3_PORT": closed}, set())
    text = f"{port} (MLFLOW_PORT) is taken by another program; stop it, or set MLFLOW_PORT in .env to a free one"
    assert lines(findings) == [text]


def test_a_port_of_the_stack_itself_is_fine(port: int) -> None:
    assert [f.level for f in doctor.check_ports({"MLFLOW_PORT": port}, {port})] == ["ok"]


@pytest.mark.parametrize(("gib", "level"), [(1, "fail"), (20, "warn"), (100, "ok")])
def test_room_is_judged_by_two_limits(gib: int, level: str) -> None:
    found = doctor.check_room("disk", gib * doctor.GIB, doctor.DISK, "free some")
    assert (found.level, "free some" in found.text) == (level, level != "ok")


def test_images_that_are_missing_or_move_are_named() -> None:
    here = {"a/b:1", "h:1/a/f@sha256:00"}
    findings = doctor.check_images(["a/b:1", "a/c:1", "a/d:latest", "a/e", "h:1/a/f:1@sha256:00"], here)
    assert [line.split()[0] for line in lines(findings, "warn")] == ["a/c:1"]
    assert [line.split()[0] for line in lines(findings)] == ["a/d:latest", "a/e"]


@pytest.mark.parametrize(("seconds", "level"), [(-2.0, "ok"), (-100.0, "warn"), (1000.0, "fail")])
def test_a_clock_that_is_off_is_said(seconds: float, level: str) -> None:
    assert doctor.check_clock(seconds).level == level


@pytest.mark.parametrize(
    ("status", "level", "said"),
    [
        ("200", "ok", "accepts the keys for bucket '200'"),
        ("403", "fail", "refuses S3_ACCESS_KEY and S3_SECRET_KEY of .env for bucket '403'"),
        ("404", "warn", "make up creates it"),
        ("301", "fail", "set S3_REGION"),
        ("500", "fail", "answers 500"),
    ],
)
def test_a_store_is_asked_for_the_bucket_and_its_clock_compared(port: int, status: str, level: str, said: str) -> None:
    s3, clock = doctor.check_s3(f"http://127.0.0.1:{port}", KEYS | {"S3_BUCKET": status})
    assert (s3.level, s3.subject) == (level, "s3")
    assert said in s3.text
    assert (clock.level, clock.subject) == ("ok", "clock")


def test_a_store_outside_that_this_machine_does_not_reach_is_a_warning(closed: int) -> None:
    url = f"http://127.0.0.1:{closed}"
    [line] = lines(doctor.check_s3(url, KEYS | {"S3_ENDPOINT_URL": url}), "warn")
    assert line.startswith(f"no answer at {url} from this machine")
    [line] = lines(doctor.check_s3("here:9000", KEYS | {"S3_ENDPOINT_URL": "here:9000"}))
    assert line == "S3_ENDPOINT_URL: 'here:9000' is not an address; give http://HOST:PORT"


def test_a_store_outside_is_looked_at_without_a_running_stack(folder: Path, port: int) -> None:
    with (folder / ".env").open("a") as file:
        file.write(f"S3_ENDPOINT_URL=http://127.0.0.1:{port}\nS3_BUCKET=200\nSTACK_NAME=vm-test-nowhere\n")
    said = [finding for finding in doctor.examine(folder) if finding.subject == "s3"]
    assert [(f.level, f.text) for f in said] == [("ok", f"http://127.0.0.1:{port} accepts the keys for bucket '200'")]


KNOWN = {"airflow-worker": "celery", "redis": "celery"}


@pytest.mark.parametrize(
    ("chosen", "running"),
    [(set(), set()), ({"celery"}, set()), ({"*"}, {"airflow-worker", "redis"}), (set(), {"airflow-scheduler"})],
)
def test_profiles_that_fit_what_runs_are_fine(chosen: set[str], running: set[str]) -> None:
    assert [f.level for f in doctor.check_profiles(chosen, KNOWN, running)] == ["ok"]


def test_a_misspelt_profile_is_named_with_those_there_are() -> None:
    [line] = lines(doctor.check_profiles({"celry"}, KNOWN, set()))
    assert line == "celry in COMPOSE_PROFILES is unknown; choose from celery"


def test_a_profile_without_its_services_is_named() -> None:
    [line] = lines(doctor.check_profiles({"celery"}, KNOWN, {"airflow-scheduler", "redis"}))
    assert line == "airflow-worker does not run, and celery is in COMPOSE_PROFILES; run make up"


def test_services_without_their_profile_are_named() -> None:
    found = lines(doctor.check_profiles(set(), KNOWN, {"airflow-scheduler", "redis"}))
    assert found == ["redis runs, and celery is not in COMPOSE_PROFILES; run make down, then make up"]


def test_servers_that_are_away_are_named_with_their_port(closed: int) -> None:
    assert f"no answer at http://127.0.0.1:{closed}" in lines(doctor.check_s3(f"http://127.0.0.1:{closed}", KEYS))[0]
    assert f"no answer on port {closed}" in lines(doctor.check_mlflow(closed, ("admin", "right"), ["mlflow"]))[0]


def test_mlflow_is_asked_under_every_name(port: int) -> None:
    login = ("admin", "right")
    assert [f.level for f in doctor.check_mlflow(port, login, ["mlflow", "mlflow:5000"])] == ["ok"]
    [line] = lines(doctor.check_mlflow(port, login, ["mlflow", "mlflow:5000", "ml.example.org"]))
    assert line.startswith("refuses the Host header ml.example.org; add it to MLFLOW_MORE_HOSTS")


def test_a_wrong_password_is_told_apart_from_a_refused_host(port: int) -> None:
    [line] = lines(doctor.check_mlflow(port, ("admin", "wrong"), ["mlflow"]))
    assert line.startswith("refuses MLFLOW_TRACKING_PASSWORD of .env")


def test_docker_that_is_missing_or_old_is_named() -> None:
    def nothing(_: object) -> str:
        raise OSError("no command docker")

    assert lines(doctor.check_engine(nothing))[0].startswith("no command docker; install Docker Engine")
    assert "version 1.29.2 is too old" in lines(doctor.check_engine(lambda _: "1.29.2"))[0]
    assert [f.level for f in doctor.check_engine(lambda _: "v2.40.3")] == ["ok"]


def test_the_report_has_one_line_per_finding_and_fails_with_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".env").unlink()
    assert doctor.report(folder) == 1
    assert f"fail  .env     {folder / '.env'} is missing; run make setup\n" in capsys.readouterr().out


def test_without_boto3_or_keys_the_store_is_not_asked(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    assert lines(doctor.check_s3(f"http://127.0.0.1:{port}", {})) == [
        "S3_ACCESS_KEY or S3_SECRET_KEY is empty; run make setup"
    ]
    monkeypatch.setattr(bucket_check, "available", lambda: False)
    [line] = lines(doctor.check_s3(f"http://127.0.0.1:{port}", KEYS), "warn")
    assert line == "not checked, boto3 is missing; run make install, then make doctor again"

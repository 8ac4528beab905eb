"""images/mlflow/create_bucket.py against servers that are no S3 store; a real store is in tests/stack."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "images/mlflow/create_bucket.py"
# The program with a shorter wait for a store that does not answer.
IMPATIENT = "import create_bucket; create_bucket.PATIENCE = 1.5; create_bucket.main()"


class WebSite(BaseHTTPRequestHandler):
    """A web server that knows no S3."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_PUT(self) -> None:
        self.send_response(405)
        self.send_header("Content-Length", "11")
        self.end_headers()
        self.wfile.write(b"<p>sorry</p"[:11])

    def log_message(self, *arguments: object) -> None:
        pass


class SimpleStore(BaseHTTPRequestHandler):
    """A store that has the bucket and knows no lifecycle rules."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        body = b"<Error><Code>NotImplemented</Code><Message>not here</Message></Error>"
        self.send_response(501)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def simple_store() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), SimpleStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def web_site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), WebSite) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def create(endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    given = {"S3_BUCKET": "mlflow", "MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    given |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"} | more
    command = [sys.executable, "-c", IMPATIENT]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, cwd=PROGRAM.parent)


def refused(endpoint: str) -> str:
    done = create(endpoint)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_web_server_is_told_from_a_store(web_site: str) -> None:
    assert f"{web_site} answers, but not as an S3 server" in refused(web_site)


def test_an_endpoint_that_is_no_url_is_named() -> None:
    assert "no S3 server answers at nowhere (Invalid endpoint: nowhere)" in refused("nowhere")


def test_a_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused("http://no-such-store.invalid:9000")
    assert "no S3 server answers at http://no-such-store.invalid:9000" in line
    assert "correct S3_ENDPOINT_URL" in line


def test_a_store_without_lifecycle_rules_is_told_and_used(simple_store: str) -> None:
    done = create(simple_store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"bucket 'mlflow' at {simple_store} exists",
        "task logs never expire: the store refuses lifecycle rules (NotImplemented); set one for 'airflow-logs/' by "
        "its own tools",
    ]


@pytest.mark.parametrize("days", ["-1", "a week", "1.5"])
def test_days_that_are_none_are_refused_before_anything_is_done(simple_store: str, days: str) -> None:
    done = create(simple_store, TASK_LOGS_KEEP_DAYS=days)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"TASK_LOGS_KEEP_DAYS={days!r} is not a number of days; set one, or 0 for ever\n"

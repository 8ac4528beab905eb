"""images/mlflow/s3_store.py against a server that answers as S3 servers do; a real quota is in tests/stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "images/mlflow"
FULL = ["403-QuotaExceeded", "400-XMinioAdminBucketQuotaExceeded", "507-XMinioStorageFull", "507-NoMoreSpace"]
REFUSED = "403-AccessDenied"
PROGRAM = """
import json, sys
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

said = {}
for bucket in sys.argv[2:]:
    try:
        get_artifact_repository(f"s3://{bucket}/folder").log_artifact(sys.argv[1])
    except Exception as error:
        status = getattr(error, "get_http_status_code", lambda: None)()
        said[bucket] = [type(error).__name__, status, str(error)]
print(json.dumps(said))
"""

# As many uploads, each five minutes after the one before by MLflow's clock; prints the open files after each.
HOURS = """
import sys, psutil
from mlflow.store.artifact import s3_artifact_repo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

for window in range(int(sys.argv[2])):
    s3_artifact_repo._get_utcnow_timestamp = lambda: window * 300.0
    get_artifact_repository("s3://200-OK/folder").log_artifact(sys.argv[1])
    print(psutil.Process().num_fds())
"""


# Ask for a folder below the server's root, the root itself, and what is beside it.
ADDRESSES = """
import json, os
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

os.environ["MLFLOW_ARTIFACTS_DESTINATION"] = "s3://mlflow/root"
said = {}
for address in ("root", "root/", "root/1/run/artifacts", "root/airflow-logs", "", "other"):
    try:
        get_artifact_repository(f"s3://mlflow/{address}")
        said[address] = 200
    except MlflowException as error:
        said[address] = error.get_http_status_code()
print(json.dumps(said))
"""


class Named(BaseHTTPRequestHandler):
    """Answers every upload with what the bucket is named after, STATUS-CODE; an error but for 200."""

    protocol_version = "HTTP/1.1"  # connections are kept

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, code = self.path.split("/")[1].split("-")
        error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
        body = b"" if status == "200" else error.encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """Run a program that is given a file to upload, with MLflow's store and the server; what it printed."""
    file = tmp_path_factory.mktemp("upload") / "file.txt"
    file.write_text("kept?")
    with ThreadingHTTPServer(("127.0.0.1", 0), Named) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "PYTHONPATH": str(PLUGIN),
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_MAX_ATTEMPTS": "1",
        }

        def run_program(program: str, *arguments: str) -> list[str]:
            command = [sys.executable, "-c", program, str(file), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        yield run_program
        server.shutdown()


@pytest.fixture(scope="module")
def said(run: Callable[..., list[str]]) -> dict[str, list[object]]:
    """What MLflow's store says about an upload to each bucket: kind of error, HTTP status, text."""
    return dict(json.loads(run(PROGRAM, *FULL, REFUSED)[-1]))


@pytest.mark.parametrize("bucket", FULL)
def test_a_full_store_is_507_and_one_line(said: dict[str, list[object]], bucket: str) -> None:
    text = f"the S3 store is full ({bucket[4:]}); raise its quota or free space, then clear the task"
    assert said[bucket] == ["StoreFullError", 507, text]


def test_another_refusal_stays_what_it_is(said: dict[str, list[object]]) -> None:
    assert said[REFUSED][:2] == ["S3UploadFailedError", None]
    assert "AccessDenied" in str(said[REFUSED][2])


def test_hours_of_work_keep_no_old_connections(run: Callable[..., list[str]]) -> None:
    files = [int(line) for line in run(HOURS, "20")]
    assert files[-1] <= files[3] + 1, files


def test_only_the_root_of_the_server_is_opened(run: Callable[..., list[str]]) -> None:
    said = json.loads(run(ADDRESSES)[-1])
    assert said == {"root": 200, "root/": 200} | dict.fromkeys(
        ("root/1/run/artifacts", "root/airflow-logs", "", "other"), 403
    )

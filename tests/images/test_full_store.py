"""images/mlflow/full_store.py against a server that refuses as S3 servers do; a real quota is in tests/stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
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


class Refusing(BaseHTTPRequestHandler):
    """Answers every upload with the error that the bucket is named after: STATUS-code."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, code = self.path.split("/")[1].split("-")
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[object]]]:
    """What MLflow's store says about an upload to each bucket: kind of error, HTTP status, text."""
    file = tmp_path_factory.mktemp("upload") / "file.txt"
    file.write_text("kept?")
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "PYTHONPATH": str(PLUGIN),
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_MAX_ATTEMPTS": "1",
        }
        command = [sys.executable, "-c", PROGRAM, str(file), *FULL, REFUSED]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        yield json.loads(done.stdout.splitlines()[-1])
        server.shutdown()


@pytest.mark.parametrize("bucket", FULL)
def test_a_full_store_is_507_and_one_line(said: dict[str, list[object]], bucket: str) -> None:
    text = f"the S3 store is full ({bucket[4:]}); raise its quota or free space, then clear the task"
    assert said[bucket] == ["StoreFullError", 507, text]


def test_another_refusal_stays_what_it_is(said: dict[str, list[object]]) -> None:
    assert said[REFUSED][:2] == ["S3UploadFailedError", None]
    assert "AccessDenied" in str(said[REFUSED][2])

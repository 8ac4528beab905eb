"""A store with two versions, version 1 champion, and the stage predict on it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contract.messages import TaskIdentity
from tasks.contract.prediction import PredictRequest, PredictResult
from tasks.records import tracking
from tasks.serving import process
from tasks.stages import predict
from tests.tasks.prediction.s3_server import S3Server, serving
from tests.tasks.serving.conftest import service, session_service, session_store, store
from tests.tasks.serving.samples import Store, environment, picture

__all__ = ["service", "session_service", "session_store", "store"]  # fixtures

Predict = Callable[..., PredictResult]
RunStage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, dark to bright, in two folders; a text, and a file that is no picture."""
    images = tmp_path / "images"
    for number in range(12):
        path = images / f"{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number * 20))
    (images / "0" / "broken.jpg").write_bytes(b"\xff\xd8\xffno picture")
    (images / "readme.txt").write_text("not an image by its name")
    (images / ".hidden.png").write_bytes(picture(0))
    return images


def packed(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False)
    return target


def asked(images: Path | str, day: str, fields: dict[str, Any]) -> dict[str, Any]:
    task = TaskIdentity(dag_id="batch_predict", dag_run_id=day, task_id="predict")
    return {"task": task.model_dump(), "images": str(images), **fields}


@pytest.fixture
def run_predict(store: Store, request: pytest.FixtureRequest) -> Predict:
    """Run the stage in this process; each call is a DAG run of its own, unless `day` says which."""
    number = iter(range(1000))

    def call(images: Path | str, day: str | None = None, **fields: Any) -> PredictResult:
        day = day or f"{request.node.name[:60].replace('[', '-').replace(']', '')}-{next(number)}"
        parsed = PredictRequest.model_validate(
            asked(images, "".join(c for c in day if c.isalnum() or c in "_-"), fields)
        )
        with tracking.stage_run(parsed, "predict", store.settings) as run:
            return predict.run(parsed, run, store.settings)

    return call


@pytest.fixture
def run_stage(store: Store, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the stage as a task does, in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(images: Path | str, day: str, variables: dict[str, str] | None = None, **fields: Any) -> Any:
        command = [sys.executable, "-m", "tasks", "predict", "--request", json.dumps(asked(images, day, fields))]
        variables = environment(store.settings, PIPELINE_EXPERIMENT="tests", **(variables or {}))
        process_ = subprocess.Popen(
            [*command, "--result", str(tmp_path / "return.json")],
            env=variables, cwd=process.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process_)
        return process_

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    """A small S3 store, which boto3's own variables lead to."""
    for name, value in {"ACCESS_KEY_ID": "good", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(folder: Path) -> pa.Table:
    """What users read: all parts of a folder."""
    return pq.read_table(folder)

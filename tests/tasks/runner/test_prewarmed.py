"""A stage that was started before its turn has imported what takes seconds when its request comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What imports is imported once, which takes seconds; what imports more is a fork, so that no case sees it of another.
CODE = """
import os, sys
from tasks.runner.prewarmed import read_request
NAMES = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "torch")
class Watched:
    def read(self):
        print(*(name for name in NAMES if name in sys.modules))
        return "the request"
sys.stdin = Watched()
print(*(name for name in NAMES if name in sys.modules))
os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
print(read_request())
del os.environ["MLFLOW_TRACKING_USERNAME"]
for uri in ("http://127.0.0.1:1", "sqlite:///x.db", None):
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    sys.stdout.flush()
    if os.fork() == 0:
        print(read_request())
        sys.exit()
    _, status = os.wait()
    assert status == 0, uri
"""
STORE = "mlflow.store.tracking.sqlalchemy_store"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What was loaded before anything, and in each case when its request was read, which is the line after it."""
    folder = tmp_path_factory.mktemp("prewarmed")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PIPELINE_"))}
    variables = own | {"PIPELINE_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True, text=True)
    assert list(folder.iterdir()) == []  # nothing is opened, and no database made
    nothing, *lines = done.stdout.splitlines()
    assert nothing == ""
    assert lines[1::2] == ["the request"] * 4
    return lines[::2]


def test_wrong_settings_are_left_to_the_stage_to_tell(said: list[str]) -> None:
    assert said[0] == "mlflow"


def test_what_is_loaded_before_the_request_is_read(said: list[str]) -> None:
    over_http, named, default = said[1:]
    assert over_http == "mlflow"
    assert named == default == f"mlflow {STORE}"

"""A stage that was started before its turn has imported what takes seconds when its request comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from tasks.runner.prewarmed import read_request
class Watched:
    def read(self):
        print(*(name for name in ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "torch") if name in sys.modules))
        return "the request"
sys.stdin = Watched()
print(read_request())
"""
STORE = "mlflow.store.tracking.sqlalchemy_store"


@pytest.mark.parametrize(
    ("uri", "loaded"),
    [("sqlite:///x.db", f"mlflow {STORE}"), ("http://127.0.0.1:1", "mlflow"), ("", f"mlflow {STORE}")],
)
def test_what_is_loaded_before_the_request_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, loaded: str
) -> None:
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout.splitlines() == [loaded, "the request"]
    assert list(tmp_path.iterdir()) == []  # nothing is opened, and no database made


def test_wrong_settings_are_left_to_the_stage_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    said = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout.splitlines() == ["mlflow", "the request"]

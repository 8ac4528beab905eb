"""A small image that stands where the stages' images would, and what tests of a runtime need around it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RUN_ID = "12e45678901234567890123456789012"
DOCKERFILE = """
FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 pipeline && install -d -o pipeline /airflow /airflow/xcom
COPY stub.py /stub.py
USER 10001:10001
ENTRYPOINT ["python", "-u", "/stub.py"]
"""
STUB = """
import json, os, signal, sys, time
stage, _, request = sys.argv[1:]
request = json.loads(request)
def answer(**more):
    fields = {"run_id": "12e45678901234567890123456789012", "experiment_id": "7", "seconds": 0.5,
              "registered_model": "m", "version": 3, "created": True, "promoted": True, "previous_champion": None,
              "reason": "first"}
    with open("/airflow/xcom/return.json", "w") as file:
        json.dump(fields | more, file)
exec(os.environ["STUB"])
"""


def build_image(folder: Path, name: str) -> None:
    """Build the image: it runs the Python in its variable STUB, with `stage`, `request` and `answer()` at hand."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "stub.py").write_text(STUB)
    subprocess.run(["docker", "build", "--quiet", "--tag", name, str(folder)], check=True, capture_output=True)


def context(conf: dict[str, Any] | None = None) -> Any:
    return {
        "ti": SimpleNamespace(run_id="manual__1", map_index=-1),
        "dag_run": SimpleNamespace(conf=None),
        "params": conf or {},
    }


class TaskLog(list[str]):
    def info(self, text: str, *values: object) -> None:
        self.append(text % values)

    warning = info

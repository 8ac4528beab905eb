"""A scratch Airflow home, set before anything imports Airflow, and the stage that stands in for real ones."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("PIPELINE_", "MLFLOW_", "SERVING_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def stub(tmp_path: Path) -> tuple[str, ...]:
    """Command line of a stage that does what the variable STUB says, as Python."""
    script = tmp_path / "stub.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, os, signal, subprocess, sys, time
            stage, _, _, _, result = sys.argv[1:]
            request = json.loads(sys.stdin.read())
            def answer(**more):
                fields = {"run_id": "12e45678901234567890123456789012", "experiment_id": "7", "seconds": 0.5}
                fields |= {"registered_model": "m", "version": 3, "created": True, "promoted": True,
                           "previous_champion": None, "reason": "first"}
                with open(result, "w") as file:
                    json.dump(fields | more, file)
            exec(os.environ["STUB"])
            """
        )
    )
    return sys.executable, str(script)

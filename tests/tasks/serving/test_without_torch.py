"""The service in its image: without torch, pandas, onnx and boto3, and without a report to ONNX Runtime's maker."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.records import registry
from tests.tasks.serving.samples import MODEL, Brightness, Store, environment, log_model, picture

# What ONNX Runtime's telemetry sees of the environment: it is off by itself where CI or the like is set.
KEPT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG")
ABSENT = ("torch", "pandas", "onnx", "onnxscript", "boto3", "matplotlib", "sklearn")
# Makes packages as good as not installed, imports the service, and has it answer a picture or tell its problem.
PROGRAM = """
import base64, importlib.util, json, sys

absent, known = sys.argv[1].split(","), importlib.util.find_spec

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in absent else known(name, package)
sys.meta_path.insert(0, Absent())

import mlflow
import numpy as np
from tasks.settings import load_settings
from tasks.serving import __main__, control, service, worker
from tasks.serving.model_reference import parse
from tasks.serving.preparation import prepared_model
from tasks.serving.reference_check import open_verified
from tasks.serving.resolution import resolve
from tasks.vision.data.images import decode

settings = load_settings()
mlflow.set_tracking_uri(settings.tracking_uri)
mlflow.set_registry_uri(settings.tracking_uri)
try:
    with prepared_model(resolve(parse(settings.serving_model, settings.serving_registered_model))) as prepared:
        model = open_verified(prepared)
    answer = model.predict(decode(base64.b64decode(sys.argv[2]), *model.shape[:2])[None]).tolist()
    said = {"answer": answer, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}
except Exception as error:
    said = {"problem": str(error)}
print(json.dumps(said))
"""


def outside_of_ci(variables: Mapping[str, str]) -> dict[str, str]:
    ours = ("MLFLOW_", "PIPELINE_", "SERVING_")
    return {name: value for name, value in variables.items() if name in KEPT or name.startswith(ours)}


def said(store: Store, home: Path, version: int) -> dict[str, Any]:
    """What the service's modules say of a bright picture."""
    # Without ORT_DISABLE_TELEMETRY: the code itself turns it off.
    variables = outside_of_ci(environment(store.settings, SERVING_MODEL=str(version))) | {"HOME": str(home)}
    command = [sys.executable, "-c", PROGRAM, ",".join(ABSENT), base64.b64encode(picture(255)).decode()]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def of_onnx_runtime(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if "onnxruntime" in path.name.lower()]


def test_it_answers_with_an_onnx_model(store: Store, tmp_path: Path) -> None:
    found = said(store, tmp_path, 1)
    assert "answer" in found, found
    [row] = found["answer"]
    assert row.index(max(row)) == 2
    assert not set(ABSENT) & set(found["loaded"])
    assert of_onnx_runtime(tmp_path) == [], "its telemetry keeps a database"


def test_onnx_runtime_left_alone_keeps_a_database(tmp_path: Path) -> None:
    """So that the test above can fail."""
    variables = outside_of_ci(os.environ) | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import onnxruntime"], env=variables, check=True, timeout=600)
    assert of_onnx_runtime(tmp_path)


def test_a_version_of_an_earlier_release_says_how_to_export_it(store: Store, tmp_path: Path) -> None:
    run_id, uri = log_model(Brightness([0, 1, 2]), onnx=False)
    version = int(registry.create_version(MODEL, uri, run_id, {}, "").version)
    problem = said(store, tmp_path, version)["problem"]
    assert "an earlier release registered it without the ONNX form that this service runs" in problem
    assert "make export-onnx, or `python -m tasks export-onnx` in the image of train" in problem
    assert len(problem) < 400

"""The images: what they hold, as whom they run, how they refuse a bad request."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tasks.contract import stages

from .conftest import ROOT, TAG, build_images

pytestmark = pytest.mark.docker
LIGHT = [name for name, stage in stages.STAGES.items() if stage.extra == "client"]
STAGES = [*LIGHT, *(name for name in stages.STAGES if name not in LIGHT)]
WITH_TORCH = [name for name, stage in stages.STAGES.items() if stage.extra not in ("client", "inference")]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    build_images(*STAGES, "serving", "mlflow")


def inspect(image: str) -> dict:
    answer = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)[0]


def run(image: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a container as the operator does: nothing writable but the two volumes, no capabilities, no network."""
    volumes = ("--volume", "/tmp", "--volume", "/airflow/xcom")  # noqa: S108
    limits = (
        "--rm",
        "--read-only",
        "--network",
        "none",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges:true",
    )
    command = ["docker", "run", *limits, *volumes, *options, f"vision-mlops/{image}:{TAG}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


# Run once in each stage's image, as the entry point would be; prints what the tests ask, as JSON.
ASKED = """
import importlib, importlib.util, json, subprocess, sys
name, packages = sys.argv[1], sys.argv[2].split(",")
found = {"held": [package for package in packages if importlib.util.find_spec(package)], "refused": {}}
for request in ("{", "{}"):
    command = [sys.executable, "-m", "tasks", name, "--request", request]
    done = subprocess.run(command, capture_output=True, text=True)
    found["refused"][request] = [done.returncode, (done.stdout + done.stderr).strip().splitlines()]
try:
    importlib.import_module("tasks.stages." + name)
    found["imported"] = ""
except ImportError as error:
    found["imported"] = str(error)
other = "train" if name != "train" else "deploy"
found["other stage"] = importlib.util.find_spec("tasks.stages." + other) is not None
print(json.dumps(found))
"""
TRAINING = ("torch", "numpy", "pandas", "PIL", "airflow", "bentoml", "pip")


@functools.cache
def answers(stage: str) -> dict[str, Any]:
    """What the image of a stage says of itself; one container start, however many tests ask."""
    done = run(stage, "-c", ASKED, stage, ",".join(TRAINING), options=("--entrypoint", "python"))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*STAGES, "serving", "mlflow"])
def test_an_image_runs_as_a_numbered_ordinary_user_and_names_its_commit(name: str) -> None:
    config = inspect(f"vision-mlops/{name}:{TAG}")["Config"]
    assert config["User"] not in ("", "root", "0")
    assert re.fullmatch(r"[0-9a-f]{40}", config["Labels"]["org.opencontainers.image.revision"])
    assert not any("password" in item.lower() or "secret" in item.lower() for item in config["Env"])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_image_starts_the_runner(name: str) -> None:
    assert inspect(f"vision-mlops/{name}:{TAG}")["Config"]["Entrypoint"] == ["python", "-m", "tasks"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_finds_everything_it_imports(name: str) -> None:
    assert answers(name)["imported"] == ""


@pytest.mark.parametrize("name", LIGHT)
def test_light_images_hold_nothing_for_training(name: str) -> None:
    assert answers(name)["held"] == []


def test_the_image_of_predict_reads_images_without_torch() -> None:
    assert answers("predict")["held"] == ["numpy", "PIL"]


def test_an_image_for_training_holds_what_they_lack() -> None:
    """So that the test above can fail."""
    assert {"torch", "numpy", "PIL"} <= set(answers("train")["held"])


@pytest.mark.parametrize("name", [*LIGHT, "serving"])
def test_what_needs_no_torch_is_small(name: str) -> None:
    base = inspect("python:3.11-slim-bookworm")["Size"]
    assert inspect(f"vision-mlops/{name}:{TAG}")["Size"] - base < 250 * MEGABYTE


def test_the_training_images_share_one_torch_layer() -> None:
    layers = {name: inspect(f"vision-mlops/{name}:{TAG}")["RootFS"]["Layers"] for name in STAGES}
    shared = set.intersection(*(set(layers[name]) for name in WITH_TORCH)) - set(layers[LIGHT[0]])
    assert shared
    for alike in (("compress", "rollback"), ("prepare", "train", "evaluate", "tune")):  # the latter with Ray
        own = [inspect(f"vision-mlops/{name}:{TAG}")["Size"] for name in alike]
        assert max(own) - min(own) < MEGABYTE


def test_the_service_holds_no_torch_and_sends_no_telemetry() -> None:
    program = (
        "import importlib.util, os, sys; "
        "print([name for name in sys.argv[1].split(',') if importlib.util.find_spec(name)], "
        "os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    absent = "torch,triton,nvidia,pandas,onnx,boto3,cryptography,pip"
    done = run("serving", "-c", program, absent, options=("--entrypoint", "python"))
    assert done.stdout == "[] 1\n", done.stderr


def test_the_list_of_what_the_service_holds_is_what_it_holds(tmp_path: Path) -> None:
    """Debian's packages and Python's, in CycloneDX, without what was removed; the same image gives the same list."""
    for folder in ("one", "two"):
        command = [sys.executable, "-m", "images", "sbom", "--out", str(tmp_path / folder), "serving"]
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PIPELINE_IMAGE_TAG": TAG})
    one, two = ((tmp_path / folder / "serving.cdx.json").read_text() for folder in ("one", "two"))
    assert one == two
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(one) is None
    held = {(found["name"].lower(), found["version"]) for found in json.loads(one)["components"]}
    program = (
        "from importlib.metadata import version; import sys; "
        "print([(name, version(name)) for name in ('bentoml', 'onnxruntime', 'numpy')], sys.version.split()[0])"
    )
    installed, _, python = run("serving", "-c", program, options=("--entrypoint", "python")).stdout.rpartition(" ")
    assert {*ast.literal_eval(installed), ("python", python.strip())} <= held
    dpkg = run("serving", "-W", "-f", "${Package} ${Version}\\n", options=("--entrypoint", "dpkg-query")).stdout
    debian = {tuple(line.split()) for line in dpkg.splitlines()}
    assert len(debian) > 50
    assert debian <= held
    assert "cryptography" not in {name for name, _ in held}, "images/trim_packages.py removed it"


def test_what_the_service_imports_is_compiled() -> None:
    """Its root is read-only: what is not compiled now, every start would compile again."""
    modules = ", ".join(
        f"tasks.serving.{name}" for name in ("__main__", "control", "service", "worker", "onnx_tensors")
    )
    done = run("serving", "-v", "-c", f"import {modules}", options=("--entrypoint", "python"))
    assert done.returncode == 0, done.stderr
    compiled = re.findall(r"^# code object from (/\S+\.py)$", done.stderr, re.MULTILINE)
    matched = re.findall(r"^# \S+ matches /\S+\.py$", done.stderr, re.MULTILINE)
    assert len(matched) > 500
    assert len(compiled) < len(matched) / 20, compiled


def test_the_image_of_train_exports_to_onnx() -> None:
    done = run("train", "export-onnx", "--help")
    assert (done.returncode, "Export a version that an earlier release registered" in done.stdout) == (0, True)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize(("request_text", "part"), [("{", "is not JSON"), ("{}", "task: missing")])
def test_a_bad_request_is_one_line_and_exit_code_64(name: str, request_text: str, part: str) -> None:
    code, lines = answers(name)["refused"][request_text]
    assert code == 64, lines
    assert len(lines) == 1
    assert part in lines[0]


def test_ray_starts_where_nothing_but_two_folders_is_writable() -> None:
    """A read-only root and home, no network, the smallest shared memory; and a part of a core is a whole one to Ray."""
    code = """
import os
import ray
from pathlib import Path
from tasks.contract.training import TuneRequest
from tasks.search.room import ray_for
from tasks.settings import load_settings

task = {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}
request = TuneRequest.model_validate({"task": task, "prepare_run_id": "0" * 32, "trials": 2})
with ray_for(request, load_settings(), 1000):
    print(ray.cluster_resources()["CPU"], ray.get(ray.remote(lambda: os.getuid()).remote()))
print(sorted(path.name for path in Path("/tmp").glob("ray*")))
"""
    answer = run("tune", "-c", code, options=("--entrypoint", "python", "--cpus", "0.5", "--memory", "4g"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["1.0 10001", "[]"]


def test_workers_start_in_the_image_of_predict_though_it_has_no_torch() -> None:
    code = """
from functools import partial
import ray
from tasks.cluster.session import ray_with
from tasks.cluster.room import require_room
from tasks.prediction.worker import PredictionWorker
from tasks.settings import load_settings

with ray_with(partial(require_room, workers=1, cpus=1), 1, load_settings(), 1000) as share:
    print(share.cpus, ray.get(ray.remote(lambda: PredictionWorker.__module__).remote()))
"""
    answer = run("predict", "-c", code, options=("--entrypoint", "python", "--memory", "4g"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "1 tasks.prediction.worker\n"


@pytest.mark.parametrize("name", STAGES)
def test_an_image_of_one_stage_runs_no_other(name: str) -> None:
    assert not answers(name)["other stage"]


def test_mlflow_does_not_start_without_its_secrets() -> None:
    answer = run("mlflow", options=("--env", "MLFLOW_AUTH_ADMIN_USERNAME=admin"))
    assert answer.returncode == 78
    assert answer.stdout.count("\n") == 1
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in answer.stdout
    assert "make setup" in answer.stdout

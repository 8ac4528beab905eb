"""The images: what they hold, as whom they run, how they refuse a bad request."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tasks.contract import stages

from .conftest import TAG, build_images

pytestmark = pytest.mark.docker
LIGHT = [name for name, stage in stages.STAGES.items() if stage.extra == "client"]
STAGES = [*LIGHT, *(name for name in stages.STAGES if name not in LIGHT)]
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
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def python(image: str, code: str) -> subprocess.CompletedProcess[str]:
    return run(image, "-c", code, options=("--entrypoint", "python"))


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
    answer = python(name, f"import tasks.stages.{name}")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("package", ["torch", "numpy", "pandas", "PIL", "airflow", "bentoml", "pip"])
def test_register_and_deploy_hold_nothing_for_training(name: str, package: str) -> None:
    answer = python(name, f"import {package}")
    assert answer.returncode == 1
    assert f"No module named '{package}'" in answer.stderr


@pytest.mark.parametrize("name", LIGHT)
def test_register_and_deploy_are_small(name: str) -> None:
    base = inspect("python:3.11-slim-bookworm")["Size"]
    assert inspect(f"vision-mlops/{name}:{TAG}")["Size"] - base < 250 * MEGABYTE


def test_the_training_images_and_the_service_share_one_torch_layer() -> None:
    layers = [inspect(f"vision-mlops/{name}:{TAG}")["RootFS"]["Layers"] for name in (*STAGES, "serving")]
    shared = set.intersection(*map(set, layers[len(LIGHT) :])) - set(layers[0])
    assert len(shared) == 1
    own = [inspect(f"vision-mlops/{name}:{TAG}")["Size"] for name in ("prepare", "train", "evaluate")]
    assert max(own) - min(own) < MEGABYTE


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize(("request_text", "part"), [("{", "is not JSON"), ("{}", "task: missing")])
def test_a_bad_request_is_one_line_and_exit_code_64(name: str, request_text: str, part: str) -> None:
    answer = run(name, name, "--request", request_text)
    assert answer.returncode == 64, answer.stderr
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    assert len(lines) == 1
    assert part in lines[0]


def test_ray_starts_where_nothing_but_two_folders_is_writable() -> None:
    """A read-only root and home, no network, the smallest shared memory; and a part of a core is a whole one to Ray."""
    code = """
import os
import ray
from pathlib import Path
from tasks.contract.training import TuneRequest
from tasks.search.cluster import ray_for
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


def test_an_image_of_one_stage_runs_no_other() -> None:
    answer = python("register", "import tasks.stages.train")
    assert "No module named 'tasks.stages.train'" in answer.stderr


def test_mlflow_does_not_start_without_its_secrets() -> None:
    answer = run("mlflow", options=("--env", "MLFLOW_AUTH_ADMIN_USERNAME=admin"))
    assert answer.returncode == 78
    assert answer.stdout.count("\n") == 1
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in answer.stdout
    assert "make setup" in answer.stdout

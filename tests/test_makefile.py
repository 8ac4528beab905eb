"""What `make` calls for each target: on a copy of the Makefile, with a stand-in for Python and every other program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
AWKWARD = """it's "quoted", with $HOME; `date` & two  blanks"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with the Makefile and an environment in which every program only notes its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "python3", "airflow", "pytest", "lint-imports", "ruff", "mypy", "bandit"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "env.sh").write_text(
        f'export PATH="{programs}:$PATH" PIPELINE_RUNTIME="$1" NAMESPACE=of-env\n'
        f'export PIPELINE_HOME="{tmp_path}/.local" AIRFLOW_HOME="{tmp_path}/.local/airflow"\n'
    )
    (tmp_path / ".local" / "airflow").mkdir(parents=True)
    (tmp_path / ".local" / "airflow" / ".migrated").touch()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "requirements").mkdir()
    return tmp_path


def make(folder: Path, *arguments: str, code: int = 0) -> tuple[list[list[str]], str]:
    """Run make; returns the calls, the program's name first, and what make printed."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    python = str(folder / ".venv" / "bin" / "python3")
    # The files that .venv is made from are not there, and nothing is installed.
    old = ("requirements/dev.txt", "requirements/uv.txt", ".venv/.installed")
    command = ["make", *(f"--old-file={file}" for file in old), f"PYTHON={python}", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/nobody", "CALLS": str(calls)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    lines = calls.read_text().splitlines() if calls.exists() else []
    return [json.loads(line) for line in lines], done.stdout + done.stderr


TASKS, PIPELINE, DEPLOY = ("python", "-m", "tasks"), ("python", "-m", "pipeline"), ("python3", "-m", "deploy")
FORWARD = ("python", "-m", "deploy", "forward", "--namespace", "of-env")
CASES: dict[str, list[tuple[str, ...]]] = {
    "demo": [(*PIPELINE, "run", "daily_training"), ("python", "-m", "deploy", "curl-line", "daily_training")],
    "run": [(*PIPELINE, "run", "daily_training", "")],
    "run DAG=weekly_tuning ANEW=1": [(*PIPELINE, "run", "--anew", "weekly_tuning", "")],
    "run RUNTIME=kubernetes": [
        (*DEPLOY, "setup"),
        (*FORWARD, "--", *PIPELINE, "run", "daily_training", ""),
    ],
    "tune TRIALS=3": [(*PIPELINE, "run", "weekly_tuning", "", "--param", "trials=3")],
    "predict SOURCE=photos": [(*PIPELINE, "run", "batch_predict", "", "--param", "images=photos")],
    "predict SOURCE=a.zip OUT=found VERSION=3 ANEW=1": [
        (
            *(*PIPELINE, "run", "--anew", "batch_predict", "", "--param", "images=a.zip"),
            *("--param", "out=found", "--param", "model_version=3"),
        ),
    ],
    "tune-results ARGS=--json": [(*TASKS, "tune-results", "--json")],
    "history": [(*TASKS, "history")],
    "export-onnx": [(*TASKS, "export-onnx")],
    "export-onnx VERSION=3": [(*TASKS, "export-onnx", "--version", "3")],
    "rollback REASON=cats VERSION=3": [(*TASKS, "rollback-champion", "--reason", "cats", "--version", "3")],
    "gc": [(*TASKS, "gc")],
    "gc DAYS=30 APPLY=1": [
        (*PIPELINE, "clean-database"),
        (*TASKS, "gc", "--days", "30", "--apply"),
    ],
    "gc RUNTIME=kubernetes": [
        (*DEPLOY, "setup"),
        ("python", "-m", "deploy", "leftover-pods"),
        (*FORWARD, "--store", "--", *TASKS, "gc"),
    ],
    "gc RUNTIME=docker": [
        (*DEPLOY, "setup"),
        ("python3", "-m", "images", "build"),
        (*TASKS, "serve", "--stop"),
        (*DEPLOY, "up", "--for-stages"),
        ("python", "-m", "deploy", "leftover-containers"),
        (*TASKS, "gc"),
    ],
    "ui": [("python", "-m", "deploy", "ui")],
    "stop": [("python", "-m", "deploy", "stop-ui"), (*TASKS, "serve", "--stop")],
    "setup": [(*DEPLOY, "setup")],
    "images": [("python3", "-m", "images", "build")],
    "image-digests": [("python3", "-m", "images", "digests")],
    "image-table": [("python3", "-m", "images", "table")],
    "up": [(*DEPLOY, "setup"), (*DEPLOY, "up"), (*DEPLOY, "status")],
    "up S=serving": [(*DEPLOY, "setup"), (*DEPLOY, "up", "serving")],
    "down": [(*DEPLOY, "setup"), (*DEPLOY, "down")],
    "logs S=serving": [(*DEPLOY, "logs", "serving")],
    "user NAME=ann ROLE=viewer": [(*DEPLOY, "user", "ann", "viewer")],
    "doctor": [(*DEPLOY, "doctor")],
    "backup": [(*DEPLOY, "backup")],
    "nightly-backup": [(*DEPLOY, "nightly-backup")],
    "fetch-backup": [(*DEPLOY, "fetch-backup")],
    "fetch-backup FILE=a.backup": [(*DEPLOY, "fetch-backup", "a.backup")],
    "ship-wal": [(*DEPLOY, "ship-wal")],
    "restore-to TIME=latest FORCE=1": [(*DEPLOY, "restore-to", "--time", "latest", "--force")],
    "restore-drill TIME=latest": [(*DEPLOY, "restore-drill", "--time", "latest")],
    "restore-drill FILE=a.backup": [(*DEPLOY, "restore-drill", "--file", "a.backup")],
    "restore FILE=a.tar FORCE=1": [(*DEPLOY, "restore", "--file", "a.tar", "--force")],
    "restore FILE=a.tar PLAIN=1": [(*DEPLOY, "restore", "--file", "a.tar", "--plain")],
    "kubernetes-up": [(*DEPLOY, "setup"), (*DEPLOY, "kubernetes-up")],
    "kubernetes-up OVERLAY=eks NAMESPACE=mine": [
        (*DEPLOY, "setup"),
        (*DEPLOY, "kubernetes-up", "--overlay", "eks", "--namespace", "mine"),
    ],
    "kubernetes-airflow GIT_REPOSITORY=https://g GIT_REF=v1": [
        (*DEPLOY, "setup"),
        (*DEPLOY, "kubernetes-airflow", "--repository", "https://g", "--ref", "v1"),
    ],
    "kubernetes-verify": [(*DEPLOY, "setup"), (*DEPLOY, "kubernetes-verify")],
    "kubernetes-backup FILE=a.tar": [(*DEPLOY, "kubernetes-backup", "--file", "a.tar")],
    "bench-gate ARGS=--seed=1": [("python", "-m", "benchmarks.false_promotions", "--seed=1")],
    "inspect SOURCE=pets LAYOUT=sheet OUT=found": [
        ("python", "-m", "tasks", "inspect", "--source", "pets", "--layout", "sheet", "--out", "found")
    ],
    "weights MODEL=resnet50.a1_in1k": [(*TASKS, "weights", "--model", "resnet50.a1_in1k")],
    "weights MODEL=resnet50 FILE=a.pt LICENCE=MIT": [
        (*TASKS, "weights", "--model", "resnet50", "--file", "a.pt", "--licence", "MIT")
    ],
    "bench SOURCE=cifar": [("python", "-m", "benchmarks.training_throughput", "--source", "cifar")],
    "bench-transfer SOURCE=cifar ARGS=--part=large": [
        ("python", "-m", "benchmarks.transfer", "--source", "cifar", "--part=large")
    ],
    "bench-scale SOURCE=cifar": [("python", "-m", "benchmarks.scale", "--source", "cifar")],
    "soak RUNS=7": [("python", "-m", "tests.soak", "--runs", "7")],
    "test ARGS=tests/dags": [("pytest", "tests/dags")],
}


@pytest.mark.parametrize("target", CASES)
def test_a_target_calls(folder: Path, target: str) -> None:
    calls, _ = make(folder, *target.split())
    assert calls == [list(call) for call in CASES[target]]


@pytest.mark.parametrize(
    ("target", "variable"),
    [("run", "DAG"), ("run", "CONF"), ("tune", "CONF"), ("rollback", "REASON"), ("user", "NAME"), ("backup", "FILE"),
     ("bench", "SOURCE"), ("inspect", "SOURCE"), ("weights", "LICENCE"),
     ("kubernetes-airflow", "CHART"), ("kubernetes-up", "NAMESPACE")],
)  # fmt: skip
def test_a_value_reaches_the_program_as_it_is(folder: Path, target: str, variable: str) -> None:
    calls, _ = make(folder, target, f"{variable}={AWKWARD.replace('$', '$$')}")
    assert AWKWARD in calls[-1]


def test_an_unknown_runtime_is_named(folder: Path) -> None:
    calls, said = make(folder, "run", "RUNTIME=podman", code=2)
    assert calls == []
    assert "RUNTIME='podman' is unknown; choose local, docker or kubernetes" in said


def test_a_kubeconfig_that_is_not_there_is_named(folder: Path) -> None:
    calls, said = make(folder, "test-kubernetes", "KUBECONFIG=nowhere", code=2)
    assert calls == []
    assert "KUBECONFIG='nowhere' is not a file" in said


def test_help_names_every_target(folder: Path) -> None:
    _, said = make(folder, "help")
    named = {line.split()[1] for line in said.splitlines() if line.startswith("  make ")}
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert named == {line.split(":")[0] for line in lines if "## " in line and line[0].islower()}
    assert {target.split()[0] for target in CASES} <= named
    assert len(lines) <= 130

"""The images follow from the table of stages, which is read as text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.build import GIVEN, STALE, UNKNOWN, build
from images.copy_code import copy_code
from images.declared import images, stages
from images.digests import MISSING, print_digests
from tasks.contract.stages import STAGES

ROOT = Path(__file__).parents[2]
LIGHT = [name for name, stage in STAGES.items() if stage.extra == "client"]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that writes down what it is asked; images have a size and, where DIGESTS says so, digests."""
    program = tmp_path / "docker"
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n'
        'case "$*" in *RepoDigests*) echo "${DIGESTS:-[]}" ;; *Size*) echo 12345678 ;;\n'
        '*revision*) echo "$REVISION" ;; esac\n'
    )
    program.chmod(0o755)
    for name in ("PIPELINE_IMAGE_PREFIX", "PIPELINE_IMAGE_TAG", "PYTHON_IMAGE", GIVEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("images.declared.ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def test_read_as_text_the_table_says_the_same() -> None:
    assert stages() == {name: stage.extra for name, stage in STAGES.items()}


def test_every_stage_and_server_has_an_image() -> None:
    assert set(images()) == {*STAGES, "mlflow", "serving", "airflow"}


def test_every_extra_is_a_layer_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "images/Dockerfile").read_text()
    assert [image.name for image in images().values() if image.extra and f" AS {image.extra}\n" not in dockerfile] == []


def test_a_name_that_is_computed_is_refused(tmp_path: Path) -> None:
    contract = tmp_path / "tasks" / "contract"
    contract.mkdir(parents=True)
    (contract / "mine.py").write_text('NAME = "mine"\nSTAGES = (Stage(NAME, A, B, extra="client"),)\n')
    with pytest.raises(ValueError, match=r"mine\.py, line 2: write name and extra of a Stage as plain strings"):
        stages(tmp_path)


def test_it_needs_nothing_but_python() -> None:
    """`make images` runs on a host where nothing is installed."""
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import images.__main__",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_build_names_layer_code_and_tag(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(["train", "mlflow"]) == 0
    base, train, _, mlflow, _ = docker.read_text().splitlines()
    assert base.endswith(" python:3.11-slim-bookworm")
    assert "--file images/Dockerfile --target stage --build-arg=EXTRA=tune --build-arg=NAME=train" in train
    assert "--build-arg=MODULES=tasks.__main__ tasks.stages.train" in train
    assert train.endswith("--tag vision-mlops/train:dev .")
    assert "--file images/mlflow/Dockerfile --build-arg=GIT_COMMIT=" in mlflow
    assert "--build-arg=PYTHON_IMAGE=python:3.11-slim-bookworm --tag" in mlflow
    assert capsys.readouterr().out.splitlines()[0] == "train        12 MB    0 s  vision-mlops/train:dev"


def test_the_environment_goes_before_the_env_file(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docker.parent / ".env").write_text("PIPELINE_IMAGE_PREFIX=mine\nPIPELINE_IMAGE_TAG=v1\nPYTHON_IMAGE=python:9\n")
    monkeypatch.setenv("PIPELINE_IMAGE_TAG", "v2")
    assert build(["register"]) == 0
    assert docker.read_text().splitlines()[0].endswith("--build-arg=PYTHON_IMAGE=python:9 --tag mine/register:v2 .")


def test_an_unknown_name_is_named_before_anything_is_built(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(["train", "trian"]) == UNKNOWN == 64
    assert "image 'trian' is unknown; choose from: mlflow" in capsys.readouterr().err
    assert not docker.exists()


@pytest.mark.parametrize(("revision", "code"), [("c0ffee", 0), ("0ther", STALE)])
def test_images_that_are_given_are_not_built_and_must_be_of_the_commit(
    docker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], revision: str, code: int
) -> None:
    for name, value in ((GIVEN, "1"), ("PIPELINE_GIT_COMMIT", "c0ffee"), ("REVISION", revision)):
        monkeypatch.setenv(name, value)
    assert build([]) == code
    assert "build" not in docker.read_text()
    expected = f"{GIVEN}=1, but vision-mlops/mlflow:dev is of commit 0ther; it must be of c0ffee\n" if code else ""
    assert capsys.readouterr().err == expected


def test_digests_are_those_of_the_registry(
    docker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed = ", ".join(f'"{place}/{name}@sha256:{name}"' for name in images() for place in ("other", "vision-mlops"))
    monkeypatch.setenv("DIGESTS", f"[{pushed}]")
    assert print_digests() == 0
    line = capsys.readouterr().out
    assert line.startswith("PIPELINE_IMAGE_DIGESTS={")
    assert '"train": "sha256:train"' in line
    assert '"mlflow": "sha256:mlflow"' in line


def test_an_image_that_was_not_pushed_is_named(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_digests() == MISSING == 78
    assert "has no digest: push it first (docker push vision-mlops/" in capsys.readouterr().err


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_image_holds_no_code_that_computes(tmp_path: Path, name: str) -> None:
    copy_code(ROOT / "tasks", tmp_path, list(images()[name].modules))
    held = {path.relative_to(tmp_path / "tasks").as_posix() for path in tmp_path.rglob("*.py")}
    assert {f"stages/{name}.py", "__main__.py", "runner/faults.py"} <= held
    assert [path for path in sorted(held) if path.startswith(("cli/", "search/", "vision/training/"))] == []


def test_what_an_image_starts_by_its_name_is_in_it(tmp_path: Path) -> None:
    copy_code(ROOT / "tasks", tmp_path / "tune", list(images()["tune"].modules))
    copy_code(ROOT / "tasks", tmp_path / "serving", list(images()["serving"].modules))
    copy_code(ROOT / "tasks", tmp_path / "train", list(images()["train"].modules))
    assert (tmp_path / "tune/tasks/search/node.py").is_file()
    assert (tmp_path / "serving/tasks/serving/service.py").is_file()
    assert (tmp_path / "train/tasks/cli/export_onnx.py").is_file()
    assert (tmp_path / "train/tasks/serving/onnx_export.py").is_file()
    assert not (tmp_path / "train/tasks/cli/commands.py").exists()
    assert not (tmp_path / "serving/tasks/serving/onnx_export.py").exists()


def test_the_code_of_an_image_refuses_a_bad_request(tmp_path: Path) -> None:
    copy_code(ROOT / "tasks", tmp_path, list(images()["register"].modules))
    command = [sys.executable, "-m", "tasks", "register", "--request", "{}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 64, done.stderr
    assert "task: missing" in done.stdout + done.stderr

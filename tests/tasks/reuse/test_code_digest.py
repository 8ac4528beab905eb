from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from images.copy_code import copy_code
from images.declared import images
from tasks.reuse import code_digest

ROOT = Path(__file__).resolve().parents[3]
REUSABLE = ("train", "tune", "evaluate")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return Path(shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")))


def appended(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")


@pytest.mark.parametrize("stage", REUSABLE)
def test_it_is_the_same_wherever_the_package_lies(copied: Path, stage: str) -> None:
    assert code_digest.of_stage(stage, copied) == code_digest.of_stage(stage)


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("train", "stages/train.py"),
        ("train", "vision/training/augment.py"),  # imported by an import
        ("train", "vision/__init__.py"),  # run by every import below it
        ("train", "contract/training.py"),
        ("evaluate", "gate/decision.py"),
        ("evaluate", "serving/model.py"),  # imported inside a function
        ("evaluate", "vision/evaluation/report.html.jinja"),  # no source, but named by one
        ("tune", "search/trial.py"),
        ("tune", "vision/training/loop.py"),
    ],
)
def test_a_change_of_what_the_stage_imports_changes_it(copied: Path, stage: str, file: str) -> None:
    before = code_digest.of_stage(stage, copied)
    appended(copied / file)
    assert code_digest.of_stage(stage, copied) != before


@pytest.mark.parametrize(
    "file",
    ["stages/prepare.py", "stages/evaluate.py", "stages/deploy.py", "serving/service.py", "gate/decision.py",
     "vision/data/bronze.py", "vision/evaluation/report.html.jinja", "runner/stage_process.py",
     "reuse/earlier_results.py"],
)  # fmt: skip
def test_a_change_of_what_it_does_not_import_leaves_it(copied: Path, file: str) -> None:
    before = code_digest.of_stage("train", copied)
    appended(copied / file)
    (copied / "vision" / "notes.txt").write_text("of somebody")
    (copied / "vision" / "__pycache__").mkdir()
    assert code_digest.of_stage("train", copied) == before


def test_another_version_of_a_package_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage: code_digest.of_stage(stage) for stage in ("train", "deploy")}
    version = code_digest.version
    monkeypatch.setattr(code_digest, "version", lambda name: "9.9.9" if name == "torch" else version(name))
    assert code_digest.of_stage("train") != before["train"]
    assert code_digest.of_stage("deploy") == before["deploy"]  # it imports no torch


@pytest.mark.parametrize("stage", REUSABLE)
def test_the_version_of_every_package_is_known(stage: str) -> None:
    _, packages = code_digest.closure(f"tasks.stages.{stage}", ROOT / "tasks")
    assert {"torch", "numpy"} <= packages or stage == "tune"
    assert [name for name in packages if code_digest.version(name) == code_digest.ABSENT] == []


@pytest.mark.parametrize("stage", REUSABLE)
def test_the_image_holds_all_of_it(tmp_path: Path, stage: str) -> None:
    """The code in an image gives the digest of the checkout: a run of one is found from the other."""
    copy_code(ROOT / "tasks", tmp_path, list(images()[stage].modules))
    assert not (tmp_path / "tasks/stages/deploy.py").exists()
    assert code_digest.of_stage(stage, tmp_path / "tasks") == code_digest.of_stage(stage)


def test_a_subpackage_that_is_left_out_is_not_followed() -> None:
    package = ROOT / "tasks"
    whole, _ = code_digest.closure("tasks.stages.evaluate", package)
    part, _ = code_digest.closure("tasks.stages.evaluate", package, ("tasks.gate",))
    only_the_gate_imports = {"markdown.py"}
    assert {file.relative_to(package).parts[0] for file in whole - part} == {"gate"} | only_the_gate_imports


def test_a_stage_that_is_not_there_is_named_as_by_an_import(copied: Path) -> None:
    (copied / "stages/train.py").unlink()
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'tasks\.stages\.train'$"):
        code_digest.of_stage("train", copied)


def test_a_relative_import_is_refused_before_it_could_be_missed(copied: Path) -> None:
    file = copied / "stages/train.py"
    file.write_text(f"from .prepare import run\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    with pytest.raises(ImportError, match="relative import of 'prepare'"):
        code_digest.of_stage("train", copied)

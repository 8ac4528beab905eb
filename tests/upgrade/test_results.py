"""What the upgrade check calls a difference, and what it compares."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from . import checkout
from .checkout import Checkout, CommandError
from .image_folder import write_archive
from .results import Pair, Result, table

RESULT = Result("a" * 64, ((2.5, 0.1 + 0.2), (1.5, 0.3)), "b" * 64, "2")


def test_equal_results_are_equal_whatever_the_threads() -> None:
    assert Pair("digits", "resnet18", RESULT, replace(RESULT, threads="4")).equal


@pytest.mark.parametrize(
    ("changed", "column"),
    [
        ({"fingerprint": "c" * 64}, "DIFFERENT: `aaaaaaaaaaaa`, then `cccccccccccc`"),
        ({"digest": "c" * 64}, "DIFFERENT: `bbbbbbbbbbbb`, then `cccccccccccc`"),
        ({"losses": ((2.5, 0.3), (1.5, 0.3))}, "| DIFFERENT | 0.3 |"),  # the last digit of an earlier epoch
        ({"losses": ((2.5, 0.1 + 0.2), (1.5, 0.1 + 0.2))}, "| DIFFERENT | 0.3, then 0.30000000000000004 |"),
        ({"losses": ((2.5, 0.1 + 0.2),)}, "| DIFFERENT |"),
    ],
)
def test_any_difference_counts_and_shows(changed: dict[str, object], column: str) -> None:
    pair = Pair("digits", "resnet18", RESULT, replace(RESULT, **changed))
    assert not pair.equal
    assert column in table([pair])


def test_a_row_says_what_is_equal() -> None:
    row = table([Pair("digits", "resnet18", RESULT, RESULT)]).splitlines()[-1]
    assert row == "| digits | resnet18 | equal, `aaaaaaaaaaaa` | equal (4 values) | 0.3 | equal, `bbbbbbbbbbbb` |"


def test_the_image_folder_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first.tar", "again.tar", "other.tar"))
    for file, seed in ((first, 0), (again, 0), (other, 1)):
        write_archive(file, seed)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()  # the fingerprint is over the bytes
    with tarfile.open(first) as archive:
        files = {name: archive.extractfile(name) for name in archive.getnames()}
        shapes = {Image.open(io.BytesIO(file.read())).size for file in files.values() if file}
    assert Counter(name.split("/")[1] for name in files) == {"bars": 40, "blobs": 40, "rings": 40}
    assert Counter(name.rpartition(".")[2] for name in files) == {"png": 60, "jpg": 60}
    assert shapes == {(48, 40)}


def test_a_commit_and_the_working_tree_are_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for name, text in {"code.py": "old", ".gitignore": ".env\n", "gone.py": "old"}.items():
        (repository / name).write_text(text)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    for name, text in {"code.py": "new", ".env": "secret", "more.py": "new"}.items():
        (repository / name).write_text(text)
    (repository / "gone.py").unlink()

    monkeypatch.setattr(checkout, "ROOT", repository)
    before = checkout.of_commit("HEAD", tmp_path / "before")
    today = checkout.of_working_tree(tmp_path / "today")
    assert (before.root / "code.py").read_text() == "old"
    assert (today.root / "code.py").read_text() == "new"
    assert sorted(path.name for path in before.root.iterdir()) == [".gitignore", "code.py", "gone.py"]
    assert sorted(path.name for path in today.root.iterdir()) == [".gitignore", "code.py", "more.py"]
    assert today.name == f"{before.name}-dirty"
    with pytest.raises(CommandError, match="no-such-commit"):
        checkout.of_commit("no-such-commit", tmp_path / "none")


def test_commands_get_the_release_and_not_the_callers_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MAKEFLAGS",
        "PIPELINE_HOME",
        "MLFLOW_TRACKING_URI",
        "AIRFLOW_HOME",
        "POSTGRES_PASSWORD",
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, "the caller's")
    found = checkout.bare_environment()
    assert "the caller's" not in found.values()
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_release_is_called_by_its_own_spelling(tmp_path: Path) -> None:
    side = Checkout(tmp_path, "abc")
    with pytest.raises(CommandError, match="add its spelling"):
        side.run("run", "daily_training", runtime="local", variables={})
    for file, text in {
        "deploy/env.sh": "export RUNTIME=$1",
        "plugins/pipeline/run.py": "",
        "pipeline/run.py": "",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    (tmp_path / "pipeline/run.py").write_text("import os, sys; print(os.environ['RUNTIME'], sys.argv[1:])")
    assert side.run("run", "daily_training", runtime="docker", variables={}) == "docker ['daily_training']\n"
    with pytest.raises(CommandError, match=r"abc: .*ended with exit code 3"):
        side.shell("exit 3", runtime="local", variables={})

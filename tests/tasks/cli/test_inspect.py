"""`python -m tasks inspect`: what prepare would make of a data set."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.__main__ import main
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path / "pets"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(10):
            image = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            image.save(folder / label / f"{index}.png")
    (folder / "cat/broken.jpg").write_bytes(b"no image")
    (folder / "cat/.DS_Store").write_bytes(b"1")
    (folder / "notes.txt").write_text("notes")
    return folder


def test_it_says_what_was_understood_and_what_would_be_left_out(
    settings: Settings, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a/b"
    assert main(["inspect", "--source", str(pets), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "layout: class folders in the top folder; not used: 1 of 22 files",
        "splits: 21 train; validation and test will be split off train",
        "classes: 2 ('cat', 'dog')",
    ]
    assert said[4] == "left out: 2 of 22 files; ignored, as operating systems and tools leave them behind: 1"
    assert said[6].split("  ")[0] == "files"
    assert any(line.startswith("1 ") and "unreadable" in line and "cat/broken.jpg" in line for line in said)
    assert "a run would use 12 train, 4 validation, 4 test images" in said
    with (out / "left_out.csv").open() as file:
        assert {row["name"]: row["reason"] for row in csv.DictReader(file)} == {
            "cat/broken.jpg": "unreadable",
            "notes.txt": "outside the layout",
        }
    assert Image.open(out / "sample_grid.png").width >= 800


def test_nothing_to_leave_out_is_said(settings: Settings, pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat/broken.jpg", "cat/.DS_Store", "notes.txt"):
        (pets / name).unlink()
    assert main(["inspect", "--source", str(pets), "--layout", "classes"]) == 0
    assert "nothing would be left out" in capsys.readouterr().out


def test_where_a_run_would_stop_all_is_said_and_written_all_the_same(
    settings: Settings, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(10):
        (pets / f"dog/{index}.png").write_bytes(b"harmed")
    assert main(["inspect", "--source", str(pets), "--out", str(tmp_path / "out")]) == 65
    told = capsys.readouterr()
    assert "left out: 12 of 22 files" in told.out
    assert "DataError: 12 of 22 files" in told.err
    assert len((tmp_path / "out/left_out.csv").read_text().splitlines()) == 13
    assert main(["inspect", "--source", str(pets), "--max-left-out", "0.6"]) == 65
    assert "class 'dog' has 0 usable training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--source", "/nowhere"], 65, "source '/nowhere' does not exist"),
        (["--source", ".", "--layout", "yolo"], 64, "layout='yolo'"),
        (["--source", ".", "--label-pattern", "("], 64, "not a regular expression"),
        (["--source", "http://x/y"], 64, "cannot be opened; give a local path"),
        ([], 2, "Missing option '--source'"),
    ],
)
def test_what_is_wrong_is_one_line(
    settings: Settings, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == code
    assert says in capsys.readouterr().err


def test_neither_mlflow_nor_torch_is_imported(pets: Path) -> None:
    program = (
        "import sys; from tasks.cli import inspect; "
        f"inspect.show({{'source': {str(pets)!r}}}, None); "
        "sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

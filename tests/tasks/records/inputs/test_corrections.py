"""Where corrections come from: a file, S3 or a run in MLflow; read whole or refused in one line."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.errors import DataError, PipelineError, UnavailableError
from tasks.records import tracking
from tasks.records.inputs import corrections
from tasks.records.inputs.corrections import read_corrections
from tasks.settings import Settings
from tasks.vision.data import s3
from tasks.vision.data.corrections import MAX_BYTES

TABLE = b"file,label\na.png,dog\n"


@pytest.fixture
def run_id(settings: Settings, tmp_path: Path) -> str:
    """A run with the table at its root and in a folder."""
    experiment_id = tracking.connect(settings)
    run = MlflowClient().create_run(experiment_id).info.run_id
    path = tmp_path / "suspected_labels.csv"
    path.write_bytes(TABLE)
    for folder in (None, "labels"):
        mlflow.log_artifact(str(path), folder, run_id=run)
    return run


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "fixed.csv").write_bytes(TABLE)
    found = read_corrections(str(tmp_path / "fixed.csv"))
    assert found.by_file["a.png"].label == "dog"
    assert found.where == str(tmp_path / "fixed.csv")


@pytest.mark.parametrize(
    "path", ["suspected_labels.csv", "labels/suspected_labels.csv", "labels/./suspected_labels.csv"]
)
def test_the_artifact_of_a_run_is_read(run_id: str, path: str) -> None:
    assert read_corrections(f"runs:/{run_id}/{path}").by_file["a.png"].label == "dog"


def test_an_object_in_s3_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(url: str, limit: int, endpoint: str | None) -> bytes:
        asked.append((url, limit))
        return TABLE

    monkeypatch.setattr(s3, "read", read)
    assert read_corrections("s3://data/fixed.csv").by_file["a.png"].label == "dog"
    assert asked == [("s3://data/fixed.csv", MAX_BYTES)]


def test_a_store_that_is_away_may_be_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bytes:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(s3, "read", away)
    with pytest.raises(UnavailableError, match=r"^corrections='s3://data/fixed.csv': the store does not answer"):
        read_corrections("s3://data/fixed.csv")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.csv", "the run has no file 'none.csv' there (it has 'suspected_labels.csv'); correct the path"),
        ("labels", "the run has no file 'labels' there"),
        ("nowhere/a.csv", "the run has no file 'nowhere/a.csv' there (it has no files)"),
        ("../../secret", "which leads out of it"),
        ("labels/../../secret", "which leads out of it"),
        ("/etc/passwd", "which leads out of it"),
    ],
)
def test_a_path_that_a_run_does_not_have_is_one_line(run_id: str, path: str, says: str) -> None:
    with pytest.raises(PipelineError) as error:
        read_corrections(f"runs:/{run_id}/{path}")
    assert says in str(error.value)
    assert str(error.value).startswith("corrections='runs:/")
    assert "\n" not in str(error.value)


def test_a_run_that_does_not_exist_is_one_line(run_id: str) -> None:
    with pytest.raises(DataError, match=r"corrections='runs:/f+/a.csv': MLflow has no run 'f+'; correct the ID"):
        read_corrections(f"runs:/{'f' * 32}/a.csv")


@pytest.mark.parametrize("kind", ["missing", "folder", "not allowed"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fixed.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "not allowed":
        path.write_bytes(TABLE)

        def refused(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refused)
    says = (
        r"cannot be read \(Permission denied\); allow"
        if kind == "not allowed"
        else "no such file where this stage runs"
    )
    with pytest.raises(DataError, match=says) as error:
        read_corrections(str(path))
    assert "\n" not in str(error.value)


def test_a_huge_file_is_refused(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "MAX_BYTES", len(TABLE) - 1)
    (tmp_path / "fixed.csv").write_bytes(TABLE)
    for asked in (str(tmp_path / "fixed.csv"), f"runs:/{run_id}/suspected_labels.csv"):
        with pytest.raises(DataError, match="over 20 bytes; give a table of corrections only"):
            read_corrections(asked)

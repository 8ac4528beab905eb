from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.errors import ChangedError
from tasks.files import sha256
from tasks.records import verified_artifacts
from tasks.records.tracking import connect
from tasks.settings import Settings
from tests import stored_files

FIX = "judge it again"


@pytest.fixture
def run_id(settings: Settings) -> str:
    """A run that logged two texts."""
    with mlflow.start_run(experiment_id=connect(settings)) as run:
        verified_artifacts.log_texts({"verdict.json": "{}", "größe.txt": "Größe\n"})
    return str(run.info.run_id)


def stored(run_id: str, path: str) -> Path:
    """The file in the store, as somebody with a key to the bucket finds it."""
    return stored_files.of_run(run_id) / path


def test_texts_come_back_as_they_were_logged(run_id: str) -> None:
    assert verified_artifacts.read_text(run_id, "verdict.json", FIX) == "{}"
    assert verified_artifacts.read_text(run_id, "größe.txt", FIX) == "Größe\n"
    tags = mlflow.get_run(run_id).data.tags
    assert tags["pipeline.sha256.verdict.json"] == sha256(stored(run_id, "verdict.json"))


def test_one_that_was_changed_is_named_with_the_fix(run_id: str) -> None:
    stored(run_id, "verdict.json").write_text('{"promote": true}')
    with pytest.raises(
        ChangedError, match=rf"verdict.json of run {run_id} was changed in the store \(SHA-256 .*\); {FIX}, and find"
    ):
        verified_artifacts.read_text(run_id, "verdict.json", FIX)
    assert verified_artifacts.read_text(run_id, "größe.txt", FIX)  # the other one was not


def test_what_is_logged_again_is_what_counts(run_id: str) -> None:
    with mlflow.start_run(run_id=run_id):
        verified_artifacts.log_texts({"verdict.json": '{"again": true}'})
    assert verified_artifacts.read_text(run_id, "verdict.json", FIX) == '{"again": true}'


def test_a_run_of_an_earlier_release_has_no_digests(run_id: str) -> None:
    MlflowClient().delete_tag(run_id, "pipeline.sha256.verdict.json")
    stored(run_id, "verdict.json").write_text("old")
    assert verified_artifacts.read_text(run_id, "verdict.json", FIX) == "old"


def test_one_that_is_gone_is_not_said_to_be_changed(run_id: str) -> None:
    stored(run_id, "verdict.json").unlink()
    with pytest.raises((OSError, MlflowException)):
        verified_artifacts.read_text(run_id, "verdict.json", FIX)


def test_files_of_a_folder_are_compared_below_their_place(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_bytes(b"\x00\xff")
    (tmp_path / "a" / "y").write_bytes(b"1")
    with mlflow.start_run(experiment_id=connect(settings)) as run:
        verified_artifacts.log_folder(tmp_path / "a", "gold")
    run_id = run.info.run_id
    verified_artifacts.require_folder(run_id, "gold", stored(run_id, "gold"), FIX)
    verified_artifacts.require_folder(run_id, "silver", stored(run_id, "gold"), FIX)  # logged without digests
    stored(run_id, "gold/deep/x").write_bytes(b"\x00\xfe")
    with pytest.raises(ChangedError, match="gold/deep/x of run"):
        verified_artifacts.require_folder(run_id, "gold", stored(run_id, "gold"), FIX)

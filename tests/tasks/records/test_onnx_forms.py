"""Where the ONNX form of an old version is, and whether its files are those that were put there."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.records import artifact_digest, onnx_forms, registry, tracking
from tasks.records.onnx_forms import OnnxForm
from tasks.settings import Settings

FORM = OnnxForm(f"runs:/{'a' * 32}/onnx/{'b' * 64}", "b" * 64)


def test_a_form_is_found_where_it_was_stored(settings: Settings, tmp_path: Path) -> None:
    experiment_id = tracking.connect(settings)
    run_id = str(MlflowClient().create_run(experiment_id).info.run_id)
    version = registry.create_version("pets", f"runs:/{run_id}/model", run_id, {}, "")
    assert OnnxForm.of(version) is None
    (tmp_path / "form").mkdir()
    (tmp_path / "form/model.onnx").write_bytes(b"weights")
    stored = onnx_forms.store(version, tmp_path / "form")
    assert OnnxForm.of(registry.by_number("pets", 1)) == stored
    assert stored.uri == f"runs:/{run_id}/onnx/{artifact_digest.digest(tmp_path / 'form')}"
    assert stored.is_intact
    MlflowClient().log_text(run_id, "other weights", f"onnx/{stored.artifact_sha256}/model.onnx")
    assert not stored.is_intact


@pytest.mark.parametrize("error", [MlflowException("no such file"), FileNotFoundError("gone"), OSError("HTTP 404")])
def test_files_that_cannot_be_read_are_not_intact(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: object) -> str:
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    assert not FORM.is_intact


def test_a_server_that_is_away_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the form would be made again, from files that cannot be read either."""

    def away(**_: object) -> str:
        raise requests.ConnectionError("no answer")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", away)
    with pytest.raises(requests.ConnectionError):
        _ = FORM.is_intact

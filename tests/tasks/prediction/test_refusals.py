"""Bad input of the stage predict: one line that names the value and the fix, before anything is half done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.errors import DataError, ModelError, PipelineError, RequestError, SettingsError, UnavailableError
from tasks.records import registry
from tests.tasks.prediction.conftest import Predict, files
from tests.tasks.prediction.s3_server import S3Server
from tests.tasks.serving.samples import MODEL, Brightness, Store, damage, log_model, picture


def emptied(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        path.unlink()
    (folder / "readme.txt").write_text("no image")


def damaged(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\nand no more")


@pytest.mark.parametrize(
    ("make", "fields", "error", "says"),
    [
        (emptied, {}, DataError, r"images='.*/images' holds no images \(1 other files\); correct the address"),
        (damaged, {"max_failed": 1}, DataError, r"none of the 13 files of .* can be decoded \(such as '0/00.png': "),
        (damaged, {}, DataError, r"13 of the first 13 files .* cannot be decoded, over the limit of 25% \(such as '0/"),
        (None, {"model_version": 99}, ModelError, r"'vision-classifier' has no version 99; see the Models page"),
        (None, {"alias": "best"}, ModelError, r"has no version with the alias 'best'; run the pipeline, or set model_"),
        (None, {"registered_model": "dogs"}, ModelError, r"'dogs' has no version with the alias 'champion'; run the"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    make: Callable[[Path], None] | None,
    fields: dict[str, Any],
    error: type[PipelineError],
    says: str,
    folder: Path,
    tmp_path: Path,
    run_predict: Predict,
) -> None:
    if make:
        make(folder)
    with pytest.raises(error, match=says):
        run_predict(folder, out=str(tmp_path / "out"), **fields)
    assert "_SUCCESS" not in files(tmp_path / "out")


def test_too_many_failures_stop_early_and_a_higher_limit_goes_on(
    folder: Path, tmp_path: Path, run_predict: Predict
) -> None:
    for number in range(4):
        (folder / f"0/0{number}a.png").write_bytes(b"")
    out = {"out": str(tmp_path / "out"), "part_images": 4}
    for _ in range(2):  # the second time from what the first has written
        with pytest.raises(
            DataError, match=r"2 of the first 4 files .* `failed` in .* lists them; .* raise max_failed"
        ):
            run_predict(folder, **out)
    assert len([name for name in files(tmp_path / "out") if name.startswith("_parts/")]) == 1
    result = run_predict(folder, max_failed=0.5, **out)
    assert (result.images, result.failed) == (17, 5)


@pytest.mark.parametrize("inner", ["", "out", "a/../b"])
def test_out_inside_the_source_is_refused(inner: str, folder: Path, run_predict: Predict) -> None:
    before = files(folder)
    with pytest.raises(RequestError, match=r"out='.*' lies in images='.*'; give a place outside of it"):
        run_predict(folder, out=str(folder / inner))
    assert files(folder) == before


def test_out_inside_the_prefix_is_refused(run_predict: Predict, s3: S3Server) -> None:
    s3.objects["photos/1.png"] = picture(0)
    for out in ("s3://data/photos", "s3://data/photos/found/"):
        with pytest.raises(RequestError, match="lies in images='s3://data/photos/'"):
            run_predict("s3://data/photos/", out=out)
    assert run_predict("s3://data/photos/", out="s3://data/photos-found").images == 1


def test_out_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, run_predict: Predict, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"out='.*/file/out' cannot be written \(Not a directory\)"):
        run_predict(folder, out=str(tmp_path / "file/out"))
    with pytest.raises(DataError, match=r"out 's3://nowhere/out/' does not exist \(NoSuchBucket\)"):
        run_predict(folder, out="s3://nowhere/out")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnavailableError, match=r"the store of out 's3://data/out/' does not answer"):
        run_predict(folder, out="s3://data/out")


def test_out_with_predictions_of_someone_else_is_refused(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    (tmp_path / "out/predictions").mkdir(parents=True)
    (tmp_path / "out/predictions/mine.csv").touch()
    with pytest.raises(RequestError, match=r"holds 'predictions/mine.csv' and no _plan.json; give an out of its own"):
        run_predict(folder, out=str(tmp_path / "out"))


def test_a_source_that_is_not_there_is_named(tmp_path: Path, run_predict: Predict, s3: S3Server) -> None:
    with pytest.raises(DataError, match=r"source '.*/none' does not exist; give a folder, .zip"):
        run_predict(tmp_path / "none", out=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"images='s3://data/none/' holds no images .* end a folder in S3 with /"):
        run_predict("s3://data/none/", out=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"'s3://data/none.zip' does not exist"):
        run_predict("s3://data/none.zip", out=str(tmp_path / "out"))


def test_a_version_of_an_earlier_release_says_how_to_export_it(
    folder: Path, tmp_path: Path, run_predict: Predict, store: Store
) -> None:
    run_id, uri = log_model(Brightness([0, 1, 2]), onnx=False)
    version = int(registry.create_version(MODEL, uri, run_id, {}, "").version)
    says = rf"version {version}: an earlier release registered it without .* make export-onnx VERSION={version}"
    with pytest.raises(ModelError, match=says):
        run_predict(folder, out=str(tmp_path / "out"), model_version=version)
    assert files(tmp_path / "out") == {}


def test_a_champion_that_no_stage_promoted_is_not_used(
    folder: Path, tmp_path: Path, run_predict: Predict, store: Store
) -> None:
    MlflowClient().set_registered_model_alias(MODEL, "champion", "2")
    with pytest.raises(ModelError, match=r"version 2 is not used: somebody made it champion without a record"):
        run_predict(folder, out=str(tmp_path / "out"))
    assert run_predict(folder, out=str(tmp_path / "out"), model_version=2).version == 2


def test_a_model_that_was_changed_in_the_store_is_not_used(
    folder: Path, tmp_path: Path, run_predict: Predict, store: Store
) -> None:
    run_id, uri = log_model(Brightness([0, 1, 2]))
    tags = {"pipeline.artifact_sha256": "0" * 64}
    version = int(registry.create_version(MODEL, uri, run_id, tags, "").version)
    damage(uri)
    with pytest.raises(ModelError, match="are not those that were registered"):
        run_predict(folder, out=str(tmp_path / "out"), model_version=version)

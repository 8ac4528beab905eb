"""A version of an earlier release, which has no ONNX form, is exported once and served from that form."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackRequest
from tasks.errors import DataError, ModelError
from tasks.records import artifact_digest, ledger, onnx_forms, registry
from tasks.records.onnx_forms import OnnxForm
from tasks.records.tracking import stage_run
from tasks.serving import onnx_export
from tasks.serving.model_reference import parse
from tasks.serving.resolution import resolve
from tasks.stages import rollback
from tasks.vision.models import onnx_form
from tests import stored_files
from tests.logged_models import convert_once
from tests.tasks.serving.samples import MODEL, Brightness, Store, load, log_model, log_reference_predictions, move

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)


def folder_of(version: ModelVersion) -> Path:
    """The logged model's files in the store."""
    return stored_files.of_model(version.source)


@pytest.fixture(autouse=True)
def converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All versions here are of one program, and its conversion is not what most of these tests are about."""
    monkeypatch.setattr(onnx_form, "export", convert_once)


@pytest.fixture
def old(store: Store) -> Callable[[], ModelVersion]:
    """A version as a release without ONNX registered it, with reference predictions."""

    def again() -> ModelVersion:
        return registry.by_number(MODEL, number)

    run_id, uri = log_model(Brightness([1, 0, 2]), onnx=False)
    number = int(registry.create_version(MODEL, uri, run_id, {}, "").version)
    client = MlflowClient()
    client.set_model_version_tag(MODEL, str(number), artifact_digest.TAG, artifact_digest.digest(folder_of(again())))
    log_reference_predictions(number)
    return again


def test_it_is_exported_and_served_from_the_new_form(old: Callable[[], ModelVersion]) -> None:
    before = load(resolve(parse(str(old().version), MODEL)))
    files = artifact_digest.digest(folder_of(old()))
    said = onnx_export.ensure(old())
    assert f"{MODEL} version {old().version} exported to ONNX in" in said
    assert "answers 3 reference images as torch does" in said

    target = resolve(parse(str(old().version), MODEL))
    form = OnnxForm.of(old())
    assert form is not None
    assert (target.uri, target.artifact_sha256) == (form.uri, form.artifact_sha256)
    assert target.uri == f"runs:/{old().run_id}/onnx/{form.artifact_sha256}"
    after = load(target)
    assert np.abs(after.predict(IMAGES) - before.predict(IMAGES)).max() < 1e-5
    assert (after.classes, after.shape, after.metadata) == (before.classes, before.shape, before.metadata)
    assert artifact_digest.digest(folder_of(old())) == files  # the logged model stays as it was
    assert list(Model.load(form.uri).flavors) == ["onnx"]


def test_a_run_named_by_its_id_is_served_from_it_too(old: Callable[[], ModelVersion]) -> None:
    onnx_export.ensure(old())
    target = resolve(parse(old().run_id, MODEL))
    assert (target.uri, target.version) == (old().tags[onnx_forms.TAG], int(old().version))
    assert resolve(parse(f"runs:/{old().run_id}/other", MODEL)).uri == f"runs:/{old().run_id}/other"


def test_rollback_exports_it_before_it_is_champion(old: Callable[[], ModelVersion], store: Store) -> None:
    move(ledger.Kind.PROMOTION, None, 1)
    task = TaskIdentity(dag_id="rollback_champion", dag_run_id=f"test-{time.time_ns()}", task_id="rollback")
    request = RollbackRequest(task=task, registered_model=MODEL, reason="a test", version=int(old().version))
    with stage_run(request, "rollback", store.settings) as run:
        assert rollback.run(request, run, store.settings).version == int(old().version)
    target = resolve(parse(None, MODEL))
    assert (target.version, target.uri) == (int(old().version), old().tags[onnx_forms.TAG])
    load(target)


def test_a_second_time_does_nothing(old: Callable[[], ModelVersion], monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_export.ensure(old())
    monkeypatch.setattr(onnx_forms, "store", None)  # would fail
    assert (
        onnx_export.ensure(old()) == f"{MODEL} version {old().version} has an ONNX form, exported before; nothing to do"
    )


def test_a_version_that_was_logged_with_one_needs_none(store: Store) -> None:
    assert onnx_export.ensure(registry.by_number(MODEL, 1)) == f"{MODEL} version 1 has an ONNX form; nothing to do"
    assert onnx_forms.TAG not in registry.by_number(MODEL, 1).tags


def killed(*_: object) -> None:
    raise SystemExit(143)


def killed_halfway(client: MlflowClient, run_id: str, folder: str, place: str) -> None:
    client.log_artifact(run_id, f"{folder}/MLmodel", place)
    raise SystemExit(143)


@pytest.mark.parametrize(("write", "how"), [("log_artifacts", killed_halfway), ("set_model_version_tag", killed)])
def test_killed_in_a_write_it_runs_again(
    old: Callable[[], ModelVersion], monkeypatch: pytest.MonkeyPatch, write: str, how: Callable[..., None]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, write, how)
        with pytest.raises(SystemExit):
            onnx_export.ensure(old())
    assert OnnxForm.of(old()) is None
    halfway = resolve(parse(str(old().version), MODEL))
    assert halfway.uri == f"models:/{MODEL}/{old().version}"
    onnx_export.ensure(old())
    files = MlflowClient().list_artifacts(old().run_id, "onnx")
    assert len(files) == 1, "the second try wrote the same files to the same place"
    load(resolve(parse(str(old().version), MODEL)))


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_form_that_was_damaged_in_the_store_is_made_again(old: Callable[[], ModelVersion], harm: str) -> None:
    onnx_export.ensure(old())
    form = OnnxForm.of(old())
    assert form is not None
    folder = stored_files.of_run(old().run_id) / "onnx" / form.artifact_sha256
    if harm == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "model.onnx").write_bytes(b"something else")
        with pytest.raises(ModelError, match="are not those that were registered"):
            load(resolve(parse(str(old().version), MODEL)))
    assert "for the one in the store is damaged" in onnx_export.ensure(old())
    load(resolve(parse(str(old().version), MODEL)))


def halve(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def nothing_was_written(version: ModelVersion) -> bool:
    return onnx_forms.TAG not in version.tags and not MlflowClient().list_artifacts(version.run_id, "onnx")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "data/model.pt2").write_bytes(b"no archive"), "are not those that were registered"),
        (lambda folder: (folder / "data/model.pt2").unlink(), "are not those that were registered"),
        (lambda folder: (folder / "MLmodel").unlink(), "files cannot be read from the store"),
        (lambda folder: shutil.rmtree(folder), "files cannot be read from the store"),
    ],
)
def test_files_that_are_not_those_registered(
    old: Callable[[], ModelVersion], harm: Callable[[Path], object], message: str
) -> None:
    harm(folder_of(old()))
    with pytest.raises(ModelError, match=message):
        onnx_export.ensure(old())
    assert nothing_was_written(old())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "data/model.pt2").write_bytes(b"no archive"), "damaged or holds pickled objects"),
        (lambda folder: halve(folder / "data/model.pt2"), "damaged"),
        (lambda folder: (folder / "data/model.pt2").unlink(), r"holds no exported program \(model.pt2\)"),
        (lambda folder: (folder / "data").rename(folder / "elsewhere"), r"holds no exported program \(model.pt2\)"),
    ],
)
def test_a_damaged_or_missing_program_of_a_version_without_a_digest(
    old: Callable[[], ModelVersion], harm: Callable[[Path], object], message: str
) -> None:
    MlflowClient().delete_model_version_tag(MODEL, old().version, artifact_digest.TAG)
    harm(folder_of(old()))
    with pytest.raises(ModelError, match=message) as raised:
        onnx_export.ensure(old())
    assert len(str(raised.value).splitlines()) == 1
    assert nothing_was_written(old())


def test_a_server_that_is_away_is_told_as_such(
    old: Callable[[], ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = old()

    def away(*_: object, **__: object) -> str:
        raise requests.ConnectionError("no answer")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", away)
    with pytest.raises(requests.ConnectionError):
        onnx_export.ensure(version)


def test_a_version_without_reference_predictions(old: Callable[[], ModelVersion]) -> None:
    MlflowClient().delete_model_version_tag(MODEL, old().version, "pipeline.evaluate_run_id")
    with pytest.raises(DataError, match=r"has no tag 'pipeline.evaluate_run_id'"):
        onnx_export.ensure(old())
    assert nothing_was_written(old())


def test_another_answer_than_in_evaluate(old: Callable[[], ModelVersion]) -> None:
    first = registry.by_number(MODEL, 1)
    log_reference_predictions(1)
    evaluated = registry.by_number(MODEL, 1).tags["pipeline.evaluate_run_id"]
    MlflowClient().delete_model_version_tag(MODEL, first.version, "pipeline.evaluate_run_id")
    MlflowClient().set_model_version_tag(MODEL, old().version, "pipeline.evaluate_run_id", evaluated)
    with pytest.raises(ModelError, match="answer the reference images otherwise than in evaluate"):
        onnx_export.ensure(old())
    assert nothing_was_written(old())


def test_another_answer_than_torch(old: Callable[[], ModelVersion], monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: np.tile(np.float32([0.2, 0.3, 0.5]), (len(images), 1))

    monkeypatch.setattr(onnx_export, "open_onnx", turned)
    with pytest.raises(ModelError, match="its ONNX form answers otherwise than trained"):
        onnx_export.ensure(old())
    assert nothing_was_written(old())


def test_a_version_of_another_program(store: Store) -> None:
    with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("tests").experiment_id):
        pass
    _, uri = log_model(Brightness([0, 1, 2]), onnx=False)
    client = MlflowClient()
    version = client.create_model_version(MODEL, source=str(folder_of_uri(uri)))
    try:
        with pytest.raises(ModelError, match="has no train run to keep its ONNX form"):
            onnx_export.ensure(registry.by_number(MODEL, int(version.version)))
    finally:
        client.delete_model_version(MODEL, version.version)


def folder_of_uri(uri: str) -> str:
    return str(MlflowClient().get_logged_model(uri.removeprefix("models:/")).artifact_location)


@pytest.mark.parametrize("text", ["runs:/abc/onnx/def", f"s3://elsewhere/onnx/{'a' * 64}", ""])
def test_a_tag_that_was_written_by_hand_is_not_followed(old: Callable[[], ModelVersion], text: str) -> None:
    MlflowClient().set_model_version_tag(MODEL, old().version, onnx_forms.TAG, text)
    assert resolve(parse(str(old().version), MODEL)).uri == f"models:/{MODEL}/{old().version}"


def test_a_description_that_does_not_say_which_images_it_takes(old: Callable[[], ModelVersion]) -> None:
    MlflowClient().delete_model_version_tag(MODEL, old().version, artifact_digest.TAG)
    file = folder_of(old()) / "MLmodel"
    described = Model.load(str(file))
    described.metadata = {"classes": ["a", "b"], "input": [1, 8]}
    described.save(str(file))
    with pytest.raises(ModelError, match=r"metadata 'input' is \[1, 8\], not \[channels, side, side\]"):
        onnx_export.ensure(old())
    assert nothing_was_written(old())

from __future__ import annotations

import base64
import io
from pathlib import Path

import jsonschema
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from PIL import Image

from tasks.contract.promotion import EvaluateResult
from tasks.errors import DataError, ModelError
from tasks.records import registry, tracking
from tasks.serving import onnx_export, opened_model, runtimes
from tasks.settings import Settings
from tasks.vision.models.forward import Forward
from tests import stored_files
from tests.tasks.stages.conftest import Evaluate, TrainRun, crown
from tests.tasks.store_copies import Beginnings

PERFECT = [0, 1, 2, 3]
THREE_OF_FOUR = [0, 1, 2, 2]
HALF = [0, 1, 0, 1]


@pytest.fixture
def three(
    beginnings: Beginnings, settings: Settings, train_run: TrainRun, run_evaluate: Evaluate, drawn_plots: None
) -> tuple[str, EvaluateResult]:
    """The test's store has the verdict on a model that knows three classes of four; its train run's ID, the verdict."""

    def make() -> tuple[str, EvaluateResult]:
        trained = train_run(THREE_OF_FOUR)
        return trained, run_evaluate(trained)

    return beginnings.begin("three", settings, make)


def table(result: EvaluateResult, name: str) -> pd.DataFrame:
    return MlflowClient().load_table(result.experiment_id, name, run_ids=[result.run_id])


def test_figures_and_evidence(three: tuple[str, EvaluateResult]) -> None:
    _, result = three
    assert result.accuracy == 0.75
    assert result.macro_f1 == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)  # precision 1/2 and recall 1 for the third
    assert result.promote, result.reason
    assert result.champion_version is None
    run = MlflowClient().get_run(result.run_id)
    assert run.data.metrics["test_accuracy"] == 0.75
    assert run.data.metrics["test_images"] == 40
    for name in (
        "model_size_bytes",
        "peak_memory_mb",
        "latency_single_p50_ms",
        "latency_single_p95_ms",
        "batch_images_per_second",
    ):
        assert run.data.metrics[name] > 0
    plots = {artifact.path for artifact in MlflowClient().list_artifacts(result.run_id, "plots")}
    assert plots == {
        *("plots/confusion_matrix.png", "plots/per_class.png", "plots/reliability.png"),
        "plots/suspected_labels.png",
    }
    assert "all 5 checks passed (no champion yet)" in mlflow.artifacts.load_text(f"runs:/{result.run_id}/report.html")
    verdict = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/verdict.json")
    assert verdict["promote"] is True
    assert {check["name"] for check in verdict["checks"]} == {
        "loads", "accuracy", "macro F1", "calibration error", "class recall"
    }  # fmt: skip
    jsonschema.validate(verdict, mlflow.artifacts.load_dict(f"runs:/{result.run_id}/verdict.schema.json"))


def test_labels_that_look_wrong_are_a_table_and_a_file_to_correct(
    train_run: TrainRun, run_evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    result = run_evaluate(train_run([*THREE_OF_FOUR, 0]))  # sure that each dog is a cat; any other pixel is an ant
    metrics = MlflowClient().get_run(result.run_id).data.metrics
    shown = table(result, "suspected_labels.json")
    file = mlflow.artifacts.load_text(f"runs:/{result.run_id}/suspected_labels.csv").splitlines()
    assert file[0] == "file,label,was,score,split"
    assert len(shown) == len(file) - 1 == metrics["test_suspected_labels"] > 0
    assert file[1].startswith("test/dog/")
    assert file[1].endswith(".png,cat,dog,0.0333,test")
    assert set(shown["label"]) == {"cat"}
    assert f"{len(shown)} of 40 labels of test images look wrong" in caplog.text
    report = mlflow.artifacts.load_text(f"runs:/{result.run_id}/report.html")
    assert f"{len(shown)} of 40 test images" in report
    assert report.count('alt="the region that decided"') == 10  # of the dogs: their first pixel alone decides


def test_without_a_wrong_answer_no_label_is_suspected(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    result = run_evaluate(train_run(PERFECT))
    assert MlflowClient().get_run(result.run_id).data.metrics["test_suspected_labels"] == 0
    assert len(table(result, "suspected_labels.json")) == 0
    assert len(mlflow.artifacts.load_text(f"runs:/{result.run_id}/suspected_labels.csv").splitlines()) == 1


def test_top_5_accuracy_of_both_models_is_logged(
    train_run: TrainRun, run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    crown(train_run(THREE_OF_FOUR))
    monkeypatch.setattr(opened_model, "top5_accuracy", lambda labels, probabilities: float(probabilities[-1, 3]))
    metrics = MlflowClient().get_run(run_evaluate(train_run(PERFECT)).run_id).data.metrics
    assert metrics["test_top5_accuracy"] == pytest.approx(0.9)
    assert metrics["champion_test_top5_accuracy"] == pytest.approx(0.1 / 3)
    assert "accuracy 1.0000, top-5 accuracy 0.9000, macro F1" in caplog.text


def test_small_images_are_not_spread_over_many_threads(
    train_run: TrainRun, run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other work each short kernel would wait for its other threads: minutes for the latency of MobileNetV3."""
    chosen: list[int] = []
    trained = train_run(PERFECT)
    monkeypatch.setattr("tasks.vision.devices.available_cpus", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("tasks.vision.devices.idle_cpus", lambda: 64)
    run_evaluate(trained)
    assert chosen[0] == 1  # those after it are the trial's, which has a process of its own outside of tests


def test_tables_open_in_mlflow_and_a_retry_does_not_double_them(
    three: tuple[str, EvaluateResult], run_evaluate: Evaluate
) -> None:
    trained, first = three
    second = run_evaluate(trained)
    assert first.run_id == second.run_id
    per_class = table(first, "per_class.json")
    assert per_class["class"].tolist() == ["ant", "bee", "cat", "dog"]
    assert per_class["recall"].tolist() == [1, 1, 1, 0]
    assert per_class["precision"].tolist() == [1, 1, 0.5, 0]
    predictions = table(first, "predictions.json")
    assert len(predictions) == 40
    assert predictions["correct"].sum() == 30
    assert set(predictions[~predictions["correct"]]["predicted"]) == {"cat"}


@pytest.mark.parametrize(
    ("champion", "candidate", "promote"),
    [(THREE_OF_FOUR, PERFECT, True), (PERFECT, THREE_OF_FOUR, False), (PERFECT, PERFECT, False)],
)
def test_the_champion_answers_the_same_images(
    train_run: TrainRun, run_evaluate: Evaluate, champion: list[int], candidate: list[int], promote: bool
) -> None:
    version = crown(train_run(champion))
    result = run_evaluate(train_run(candidate))
    assert result.promote is promote
    assert result.champion_version == version
    assert result.champion_accuracy == sum(a == b for a, b in zip(champion, PERFECT, strict=True)) / 4
    assert tracking.tag_of(result.run_id, "pipeline.promote") == str(promote).lower()
    assert len(table(result, "predictions.json")["champion_predicted"]) == 40
    compared = champion != candidate
    plots = {artifact.path for artifact in MlflowClient().list_artifacts(result.run_id, "plots")}
    assert ({"plots/accuracy_gap.png", "plots/confusion_difference.png"} <= plots) is compared
    report = mlflow.artifacts.load_text(f"runs:/{result.run_id}/report.html")
    assert (f"champion, version {version}" in report) is compared


def test_an_old_champion_is_judged_in_the_form_that_is_served(
    train_run: TrainRun, run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train_run(THREE_OF_FOUR, onnx=False)
    version = str(crown(trained))
    judged = run_evaluate(trained)
    MlflowClient().set_model_version_tag("pets", version, "pipeline.evaluate_run_id", judged.run_id)
    onnx_export.ensure(registry.by_number("pets", int(version)))
    opened: list[set[str]] = []

    def open_model(folder: Path, description: Model, threads: int) -> Forward:
        opened.append(set(description.flavors))
        return runtimes.open_model(folder, description, threads)

    monkeypatch.setattr(opened_model, "open_model", open_model)
    result = run_evaluate(train_run(PERFECT))
    assert result.champion_accuracy == 0.75
    assert [("onnx" in flavors, "pytorch" in flavors) for flavors in opened] == [(True, True), (True, False)]


def test_the_champion_itself_is_left_where_it_is(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    trained = train_run(PERFECT)
    crown(trained)
    result = run_evaluate(trained)
    assert not result.promote
    assert result.reason == "unchanged: these weights are the champion already, version 1"


def test_files_changed_in_the_store_are_not_judged(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    trained = train_run(PERFECT)
    file = stored_files.of_model(tracking.tag_of(trained, "pipeline.logged_model_uri")) / "requirements.txt"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ModelError, match="the files of the candidate are not those that were registered"):
        run_evaluate(trained)


def test_under_a_floor_nothing_is_promoted(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    result = run_evaluate(train_run(HALF), min_accuracy=0.6)
    assert not result.promote
    assert "0.5000 is under 0.6000" in result.reason


def test_the_values_of_a_metadata_column_are_slices(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    camera = ("left",) * 30 + ("",) * 5 + ("right",) * 5  # dog, the class that the model does not know, is the last ten
    columns = {"camera": camera, "id": tuple(map(str, range(40)))}
    result = run_evaluate(train_run(THREE_OF_FOUR, columns=columns), min_slice_accuracy=0.1, slice_columns="camera")
    slices = table(result, "slices.json").query("column == 'camera'").set_index("value")
    assert slices["images"].to_dict() == {"left": 30, "(none)": 5, "right": 5}
    assert slices["accuracy"].to_dict() == {"left": 1, "(none)": 0, "right": 0}
    assert not result.promote
    assert "accuracy of the worst camera, '(none)', 0.0000 is under 0.1000" in result.reason


@pytest.mark.parametrize(("columns", "why"), [((), "has no column"), (("camera",), "one of too many values")])
def test_a_column_that_the_policy_names_must_be_there(
    train_run: TrainRun, run_evaluate: Evaluate, columns: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.vision.evaluation.slices.MAX_VALUES", 39)
    cells = {name: tuple(map(str, range(40))) for name in columns}
    result = run_evaluate(train_run(PERFECT, columns=cells), slice_columns="camera")
    assert not result.promote
    assert why in result.reason
    assert set(table(result, "slices.json")["column"]) == {"class"}


def test_reference_predictions_are_the_pixels_and_the_answers(three: tuple[str, EvaluateResult]) -> None:
    _, result = three
    document = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/probes.json")
    assert document["tolerance"] > 0
    assert [prediction["class"] for prediction in document["probes"]] == ["ant", "bee", "cat", "cat"]
    for label, prediction in enumerate(document["probes"]):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["png"]))))
        assert pixels.shape == (8, 8)
        assert pixels[0, 0] == label
        assert sum(prediction["probabilities"]) == pytest.approx(1)


def test_other_classes_than_the_champion(train_run: TrainRun, run_evaluate: Evaluate) -> None:
    crown(train_run(PERFECT))
    with pytest.raises(ModelError, match="registered_model of its own"):
        run_evaluate(train_run([0, 1], classes=2))


def test_a_run_that_did_not_train(run_evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match=f"no run '{'a' * 32}'"):
        run_evaluate("a" * 32)

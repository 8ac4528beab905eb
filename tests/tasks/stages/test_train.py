"""The train stage as the runner calls it: on a real MLflow store, a few hundred digits, a few epochs."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from PIL import Image

from tasks.contract.messages import TaskIdentity
from tasks.contract.recipe import Basis, Hyperparameters
from tasks.contract.training import TrainRequest, TrainResult
from tasks.errors import DataError, RequestError
from tasks.records import artifact_digest, gold_store, model_store, queries, removed_weights, tracking, tuned_sets
from tasks.records.checkpoint_store import CheckpointStore
from tasks.records.tuned_sets import TunedSet
from tasks.settings import Settings
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models import onnx_form
from tasks.vision.models.build import build
from tasks.vision.models.classifier import digest
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold
from tests.logged_models import convert_once
from tests.tasks.stages.undisturbed import EPOCHS, GRADUAL, Trained, call, train_undisturbed

Train = Callable[..., TrainResult]
EPOCH_METRICS = {
    *("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("learning_rate", "images_per_second", "epoch_seconds", "data_wait_share"),
}


class KilledError(BaseException):
    """Ends a try as a kill does: nothing of the stage catches it."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that wait for each other make tests slow where cores are shared."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("tasks.vision.devices.available_cpus", lambda: 1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold()


@pytest.fixture(scope="module")
def trained(
    gold: Gold, file_of_weights: str, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    home = tmp_path_factory.mktemp("trained")
    shutil.copy(migrated_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_", "SERVING_"))]:
            patch.delenv(name)
        patch.setenv("PIPELINE_HOME", str(home))
        patch.setenv("PIPELINE_EXPERIMENT", "tests")
        patch.setattr("tasks.vision.devices.available_cpus", lambda: 1)
        patch.setattr(onnx_form, "export", convert_once)
        return train_undisturbed(home, gold, file_of_weights)


@pytest.fixture
def train_stage(settings: Settings, trained: Trained) -> Train:
    """Call the stage in a copy of the store `trained`, in which its trainings are too."""
    shutil.copy(trained.home / "mlflow.db", settings.pipeline_home / "mlflow.db")

    def call_here(attempt_of: str = "own", **changes: object) -> TrainResult:
        base = {"prepare_run_id": trained.prepare_run_id, "settings": settings, "dag_run_id": attempt_of}
        return call(**{**base, **changes})

    tracking.connect(settings)
    return call_here


def steps(run_id: str, metric: str) -> list[int]:
    return [entry.step for entry in MlflowClient().get_metric_history(run_id, metric)]


def models(result: TrainResult) -> list[str]:
    found = MlflowClient().search_logged_models([result.experiment_id], f"source_run_id = '{result.run_id}'")
    return [f"models:/{model.model_id}" for model in found]


def run_of(dag_run_id: str, settings: Settings) -> str:
    tags = {"pipeline.dag_run_id": dag_run_id, "pipeline.stage": "train"}
    return str(next(queries.find_runs(tracking.connect(settings), tags)).info.run_id)


@pytest.mark.usefixtures("train_stage")
def test_everything_the_next_stages_need_is_found_through_the_run(trained: Trained, gold: Gold, tmp_path: Path) -> None:
    result = trained.first
    run = MlflowClient().get_run(result.run_id)

    assert (result.epochs, 1 <= result.best_epoch <= EPOCHS) == (EPOCHS, True)
    assert EPOCH_METRICS | {"batch_loss", "batch_learning_rate"} <= set(run.data.metrics)
    each = list(range(1, EPOCHS + 1))
    assert {metric: steps(result.run_id, metric) for metric in EPOCH_METRICS} == dict.fromkeys(EPOCH_METRICS, each)
    assert steps(result.run_id, "batch_loss") == [3, 6, 9, 12, 15, 18]  # of 4 in an epoch
    assert run.data.metrics["best_validation_accuracy"] == result.validation_accuracy

    total = sum(p.numel() for p in Training(_request(gold).recipe(Basis("digits", 100, 8)), gold).network.parameters())
    assert run.data.params["parameters_total"] == run.data.params["parameters_trainable"] == str(total)
    assert run.data.params["parameters_frozen"] == "0"
    assert run.data.params["augmentation_flip"] == "False"
    assert run.data.params["learning_rate"] == "0.1"

    assert run.data.tags["pipeline.prepare_run_id"] == run.data.tags["pipeline.gold_run_id"]
    assert run.data.tags["pipeline.fingerprint"] == gold.fingerprint
    assert run.data.tags["pipeline.model_sha256"] == result.model_sha256
    assert run.data.tags["pipeline.device"] == "cpu"
    assert run.data.tags["pipeline.precision"] == "float32"
    assert run.data.tags["pipeline.micro_batches"] == "1"
    assert 0 < run.data.metrics["data_wait_share"] < 1
    assert [run.data.tags["pipeline.logged_model_uri"]] == models(result)

    folder = Path(mlflow.artifacts.download_artifacts(run_id=result.run_id, dst_path=str(tmp_path)))
    assert json.loads((folder / "classes.json").read_text()) == list(gold.classes)
    with Image.open(folder / "plots" / "curves.png") as picture:
        assert picture.width > 1000
    assert (folder / "checkpoints" / f"checkpoint-{EPOCHS % 2}.pt").is_file()
    with Image.open(folder / "plots" / "suspected_labels.png") as picture:
        assert picture.width > 500
    with (folder / "suspected_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert run.data.metrics["suspected_labels"] == len(rows)
    assert {row["split"] for row in rows} <= {"validation"}  # no features: not pretrained
    by_name = dict(zip(gold.validation.names, gold.validation.labels, strict=True))
    assert all(int(row["was"]) == by_name[row["file"]] != int(row["label"]) for row in rows)


def test_a_search_gives_the_hyperparameters_and_the_run_shows_where_from(
    train_stage: Train, settings: Settings, trained: Trained
) -> None:
    tune_run_id = MlflowClient().create_run(tracking.connect(settings)).info.run_id
    tuned_sets.keep(TunedSet(tune_run_id, "digits", "fast_cnn", Hyperparameters(learning_rate=0.02, momentum=0.8)))
    result = train_stage(tuned_by=tune_run_id, momentum=0.7)
    run = MlflowClient().get_run(result.run_id)
    assert result.tuned_by == run.data.tags["pipeline.tune_run_id"] == tune_run_id
    assert (run.data.params["learning_rate"], run.data.params["momentum"]) == ("0.02", "0.7")
    assert trained.first.tuned_by is None


def _request(gold: Gold) -> TrainRequest:
    task = TaskIdentity(dag_id="d", dag_run_id="r", task_id="t")
    return TrainRequest.model_validate({"task": task, "prepare_run_id": "0" * 32, "device": "cpu"})


@pytest.mark.usefixtures("train_stage")
def test_the_logged_model_takes_pixels_in_any_number_and_holds_no_pickle(
    trained: Trained, gold: Gold, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = trained.first
    (uri,) = models(result)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loaded = mlflow.pytorch.load_model(uri)
    for count in (1, 7, 256):
        pixels = torch.randint(0, 256, (count, *gold.shape), dtype=torch.uint8)
        probabilities = loaded(pixels)
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(1), torch.ones(count))
        assert probabilities.shape == (count, 10)
    assert digest(loaded) == result.model_sha256
    answers = loaded(torch.from_numpy(gold.validation.images)).argmax(1).numpy()
    assert (answers == gold.validation.labels).mean() == pytest.approx(result.validation_accuracy)

    info = mlflow.models.get_model_info(uri)
    assert info.metadata == {
        "classes": list(gold.classes),
        "input": [1, 8, 8],
        "architecture": "fast_cnn",
        "fingerprint": gold.fingerprint,
        "sha256": result.model_sha256,
    }
    (taken,), (given,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (taken.type, taken.shape) == (np.dtype("uint8"), (-1, 1, 8, 8))
    assert (given.type, given.shape) == (np.dtype("float32"), (-1, 10))
    assert np.array_equal(mlflow.pyfunc.load_model(uri).input_example, gold.validation.images[:4])


def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_with_the_same_bits(
    train_stage: Train,
    settings: Settings,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = trained.first
    with monkeypatch.context() as patch:
        patch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
        _kill_after_epoch(3, patch)  # its metrics are logged, its checkpoint is not
        with pytest.raises(KilledError):
            train_stage("killed")
    with caplog.at_level(logging.INFO):
        resumed = train_stage("killed")

    assert "resuming after epoch 2 of 5, from the run's checkpoint" in caplog.messages
    assert resumed.run_id == run_of("killed", settings)
    assert resumed.model_sha256 == undisturbed.model_sha256
    for metric in ("train_loss", "validation_loss", "validation_accuracy", "batch_loss"):
        histories = [
            [(entry.step, entry.value) for entry in MlflowClient().get_metric_history(run_id, metric)]
            for run_id in (resumed.run_id, undisturbed.run_id)
        ]
        assert histories[0] == histories[1]
    assert steps(resumed.run_id, "epoch_seconds") == [1, 2, 3, 4, 5]


def test_images_that_do_not_fit_into_memory_give_the_same_model(
    train_stage: Train, settings: Settings, trained: Trained
) -> None:
    little = settings.model_copy(update={"pipeline_gold_memory_mib": 0})
    assert train_stage("on-disk", settings=little).model_sha256 == trained.first.model_sha256


def test_a_training_killed_in_the_middle_of_an_epoch_goes_on_with_the_very_next_batch(
    train_stage: Train,
    settings: Settings,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, saved = CheckpointStore.save, list[tuple[int, int]]()

    def save(self: CheckpointStore, state: dict[str, object], epoch: int, step: int = 0) -> None:
        original(self, state, epoch, step)
        saved.append((epoch, step))
        if (epoch, step) == (1, 3):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
        patch.setattr("tasks.vision.training.epoch.PAUSE_SECONDS", 0.0)
        patch.setattr(CheckpointStore, "save", save)
        with pytest.raises(KilledError):
            train_stage("killed")
    assert saved == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    with caplog.at_level(logging.INFO):
        resumed = train_stage("killed")
    assert "resuming after batch 3 of epoch 2 of 5, from the run's checkpoint" in caplog.messages
    assert resumed.model_sha256 == trained.first.model_sha256
    for metric in ("train_loss", "train_accuracy", "validation_loss", "batch_loss"):
        histories = [
            [(entry.step, entry.value) for entry in MlflowClient().get_metric_history(run_id, metric)]
            for run_id in (resumed.run_id, trained.first.run_id)
        ]
        assert histories[0] == histories[1]


def test_a_training_told_to_stop_saves_the_epochs_it_has_done(
    train_stage: Train,
    settings: Settings,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rate = Training.learning_rate

    def terminated(self: Training, step: int) -> float:
        if len(self.history) == 2:  # as the handler of SIGTERM does, in the middle of the third epoch
            raise SystemExit(143)
        return rate(self, step)

    monkeypatch.setattr(CheckpointStore, "due", lambda self: False)
    monkeypatch.setattr(Training, "learning_rate", terminated)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        train_stage("stopped")
    assert "asked to stop (SIGTERM); a checkpoint has the 2 finished epochs" in caplog.messages
    assert MlflowClient().get_run(run_of("stopped", settings)).info.status == "KILLED"

    monkeypatch.setattr(Training, "learning_rate", rate)
    with caplog.at_level(logging.INFO):
        resumed = train_stage("stopped")
    assert "resuming after epoch 2 of 5, from the run's checkpoint" in caplog.messages
    assert resumed.model_sha256 == trained.first.model_sha256
    assert steps(resumed.run_id, "train_loss") == [1, 2, 3, 4, 5]


def _kill_after_epoch(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = CheckpointStore.save

    def save(self: CheckpointStore, state: dict[str, object], number: int, step: int = 0) -> None:
        if number == epoch:
            raise KilledError
        original(self, state, number, step)

    monkeypatch.setattr(CheckpointStore, "save", save)


@pytest.fixture(scope="module")
def file_of_weights(gold: Gold, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    torch.save(build("fast_cnn", 10, gold.shape).state_dict(), file)
    return str(file)


def suspects(run_id: str) -> list[dict[str, str]]:
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/suspected_labels.csv")
    return list(csv.DictReader(text.splitlines()))


def test_a_fitted_last_layer_checks_the_labels_of_training_images_too(
    train_stage: Train,
    gold: Gold,
    file_of_weights: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        result = train_stage(weights=file_of_weights, finetune="head", model="fast_cnn", epochs=2)
    found = suspects(result.run_id)
    assert {row["file"] for row in found if row["split"] == "train"} & set(gold.train.names)
    assert [row["score"] for row in found] == sorted(row["score"] for row in found)
    (line,) = [text for text in caplog.messages if "look wrong" in text]
    assert "suspected_labels.csv" in line
    assert "Param corrections" in line


@pytest.mark.parametrize("saved", [True, False], ids=["after its checkpoint", "before its checkpoint"])
def test_a_training_killed_after_its_first_epoch_keeps_the_list_of_wrong_labels(
    train_stage: Train, trained: Trained, file_of_weights: str, monkeypatch: pytest.MonkeyPatch, *, saved: bool
) -> None:
    monkeypatch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
    changes, undisturbed = {"weights": file_of_weights, **GRADUAL}, trained.gradual
    with monkeypatch.context() as patch:
        _kill_after_epoch(2 if saved else 1, patch)
        with pytest.raises(KilledError):
            train_stage("killed", **changes)
    if saved:
        monkeypatch.setattr("tasks.vision.evaluation.training_suspects.by_features", None)  # not again
    resumed = train_stage("killed", **changes)
    assert resumed.model_sha256 == undisturbed.model_sha256
    assert suspects(resumed.run_id) == suspects(undisturbed.run_id)
    assert steps(resumed.run_id, "suspected_labels") == [1]
    values = {MlflowClient().get_run(r.run_id).data.metrics["suspected_labels"] for r in (resumed, undisturbed)}
    assert values == {len(suspects(resumed.run_id))}


def test_a_training_resumed_without_features_or_list_checks_validation_images(
    train_stage: Train, settings: Settings, file_of_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
    changes = {"weights": file_of_weights, **GRADUAL}
    with monkeypatch.context() as patch:
        patch.setattr("tasks.records.suspected_labels.keep", lambda suspects, gold: None)  # as an earlier release
        _kill_after_epoch(2, patch)
        with pytest.raises(KilledError):
            train_stage("killed", **changes)
    resumed = train_stage("killed", **changes)
    assert {row["split"] for row in suspects(resumed.run_id)} <= {"validation"}


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    train_stage: Train,
    settings: Settings,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
        _kill_after_epoch(3, patch)
        with pytest.raises(KilledError):
            train_stage("killed")
    run_id = run_of("killed", settings)
    half = tmp_path / "checkpoint-0.pt"
    half.write_bytes(b"half an upload")
    MlflowClient().log_artifact(run_id, str(half), "checkpoints")
    with caplog.at_level(logging.INFO):
        result = train_stage("killed")
    assert (result.epochs, result.model_sha256) == (EPOCHS, trained.first.model_sha256)
    assert "resuming after epoch 1 of 5, from the run's checkpoint" in caplog.messages
    assert any("checkpoint-0.pt is damaged" in message for message in caplog.messages)


def test_a_retry_after_the_model_was_logged_makes_no_second_one(train_stage: Train, trained: Trained) -> None:
    first, second = trained.first, train_stage("first")
    assert first.run_id == second.run_id
    assert first.model_sha256 == second.model_sha256
    assert len(models(second)) == 1
    assert steps(second.run_id, "train_loss") == [1, 2, 3, 4, 5]


def test_a_retry_of_long_ago_trains_anew_the_weights_that_were_removed(train_stage: Train) -> None:
    """The run still has its logged model, with the digest of these weights, but without files."""
    first = train_stage(epochs=1)
    client = MlflowClient()
    uri = client.get_run(first.run_id).data.tags["pipeline.logged_model_uri"]
    removed_weights.mark(first.run_id, [], "on 2026-11-28 by clean: never registered")
    location = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    get_artifact_repository(location).delete_artifacts(removed_weights.FILES)
    again = train_stage(epochs=1)
    assert (again.run_id, again.model_sha256, models(again)) == (first.run_id, first.model_sha256, [uri])
    assert digest(mlflow.pytorch.load_model(uri)) == first.model_sha256
    tags = client.get_run(first.run_id).data.tags
    assert removed_weights.TAG not in tags
    assert tags[artifact_digest.TAG] == model_store.artifact_sha256(uri)


def test_a_retry_finishes_what_a_killed_logging_left(train_stage: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", killed)
        with pytest.raises(KilledError):
            train_stage(epochs=1)
    result = train_stage(epochs=1)
    run = MlflowClient().get_run(result.run_id)
    assert models(result) == [run.data.tags["pipeline.logged_model_uri"]]
    assert [f"models:/{output.model_id}" for output in run.outputs.model_outputs] == models(result)
    assert digest(mlflow.pytorch.load_model(models(result)[0])) == result.model_sha256


def test_a_stop_signal_passes_through_and_the_run_is_killed(
    train_stage: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("tasks.vision.training.epoch.validate", stopped)
    with pytest.raises(SystemExit):
        train_stage()
    run_id = run_of("own", settings)
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_one_validation_image_still_exports_a_model_for_any_batch_size(
    settings: Settings, gold: Gold, train_stage: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Split(gold.validation.images[:1], gold.validation.labels[:1], gold.validation.names[:1])
    one = Gold(gold.train, few, gold.test, gold.classes, gold.mean, gold.std, gold.fingerprint, gold.dataset)
    monkeypatch.setattr(gold_store, "fetch", lambda run_id: one)
    (uri,) = models(train_stage(epochs=1))
    assert mlflow.pytorch.load_model(uri)(torch.zeros(7, 1, 8, 8, dtype=torch.uint8)).shape == (7, 10)


def test_early_stopping_is_said_and_counted(train_stage: Train, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = train_stage(epochs=30, learning_rate=1e-9, patience=1, min_delta=0.1, schedule="plateau")
    assert result.epochs == 2
    assert "stopped early: no gain in validation accuracy for 1 epochs" in caplog.messages


def test_a_line_per_epoch_tells_how_it_goes_and_how_long_it_takes(trained: Trained) -> None:
    (line,) = [message for message in trained.messages if message.startswith("epoch 1/5: ")]
    assert "validation loss" in line
    assert re.search(r" images/s, \d+% of the time waiting for data, ", line)
    assert line.endswith("s left")


def test_the_time_is_estimated_before_training_starts(trained: Trained) -> None:
    messages = trained.messages
    (estimate,) = [number for number, text in enumerate(messages) if text.startswith("estimated time: about ")]
    (first,) = [number for number, text in enumerate(messages) if text.startswith("epoch 1/5: ")]
    assert estimate < first
    assert "5 epochs of 4 steps at" in messages[estimate]


def test_batches_pass_in_parts_and_a_run_says_so(train_stage: Train, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = train_stage(epochs=1, micro_batches=4)
    assert MlflowClient().get_run(result.run_id).data.tags["pipeline.micro_batches"] == "4"
    assert any("batches of 50 in 4 parts, on cpu" in message for message in caplog.messages)


def test_more_parts_than_a_batch_has_are_refused_before_anything_is_trained(
    train_stage: Train, settings: Settings
) -> None:
    with pytest.raises(RequestError, match=r"micro_batches=26 is too many for a batch of 50 images.* at most 25"):
        train_stage(micro_batches=26)
    assert MlflowClient().get_run(run_of("own", settings)).data.metrics == {}


def test_a_device_that_is_not_there_fails_before_anything_is_logged(train_stage: Train, settings: Settings) -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(RequestError, match=f"device='{missing}' is not available"):
        train_stage(device=missing)
    run = MlflowClient().get_run(run_of("own", settings))
    assert (run.info.status, run.data.metrics) == ("FAILED", {})


def test_a_prepare_run_that_is_not_there_is_named(train_stage: Train) -> None:
    with pytest.raises(DataError, match=f"no run '{'0' * 32}'"):
        train_stage(prepare_run_id="0" * 32)

"""compress by the methods that train: a student of the champion, and what is left of it after pruning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.errors import DataError, ModelError, RequestError
from tasks.records import pruned_weights, queries, registry, tracking
from tasks.records.checkpoint_store import CheckpointStore
from tasks.records.inputs import model_weights
from tasks.settings import Settings
from tasks.stages import compress
from tests.tasks.stages.compression_pipeline import KilledError, Pipeline


def test_a_smaller_network_learns_from_the_champion(
    pipeline: Pipeline, timed: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    train_run_id = pipeline.train(pipeline.prepare(), model="mobilenet_v3_small", epochs=1)
    pipeline.judge(train_run_id)
    client = MlflowClient()

    pipeline.day = "sun"
    made = pipeline.compress(
        method="distill", student="fast_cnn", compression_epochs=3, teacher_share=0.1, temperature=2.0
    )
    assert (made.method, made.train_run_id, made.parent_version) == ("distill", train_run_id, 1)
    assert made.megabytes < made.parent_megabytes / 2
    assert made.validation_accuracy > made.parent_validation_accuracy  # one epoch taught the teacher little
    trained, run = client.get_run(train_run_id).data, client.get_run(made.run_id).data
    assert (run.params["model"], run.params["epochs"]) == ("fast_cnn", "3")
    assert run.params["parameters_total"] != trained.params["parameters_total"]
    assert run.tags["pipeline.weights"] == "none"
    assert run.metrics["best_validation_accuracy"] == pytest.approx(made.validation_accuracy)
    assert {a.path for a in client.list_artifacts(made.run_id, "plots")} == {"plots/curves.png"}

    # It is a network that torch can open, as a trained one is.
    timed(1.5)
    judged, registered = pipeline.judge(made.run_id)
    assert registered.promoted, judged.reason
    files = Path(mlflow.artifacts.download_artifacts(run.tags["pipeline.logged_model_uri"]))
    assert {"onnx", "pytorch"} <= set(mlflow.models.Model.load(str(files)).flavors)
    version = registry.by_number("pets", 2)
    assert version.tags["pipeline.compression"] == "distill"
    card = str(version.description)
    assert "- Made by `distill` from version 1, trained on 300 training images" in card
    assert "for `3` epochs; share of the loss by the answers of the model before `0.1`, at temperature `2.0`" in card
    assert "the network `fast_cnn`" in card
    assert mlflow.artifacts.load_dict(f"runs:/{judged.run_id}/probes.json")["tolerance"] == 1e-3

    # It can be trained further and compressed itself, but not taught by itself.
    assert model_weights.about("models:/pets/2")[2] == "fast_cnn"
    pipeline.day = "sun2"
    again = pipeline.compress()
    assert (again.method, again.train_run_id, again.parent_version) == ("int8", made.run_id, 2)
    with pytest.raises(RequestError, match="student='fast_cnn' is the model's network already; choose a smaller"):
        pipeline.compress(method="distill", student="fast_cnn")


def test_a_pruned_network_is_trained_on_judged_and_promoted(pipeline: Pipeline, timed: Callable[[float], None]) -> None:
    prepare_run_id = pipeline.prepare()
    train_run_id = pipeline.train(prepare_run_id, epochs=6, batch_size=20)
    pipeline.judge(train_run_id)
    client = MlflowClient()

    pipeline.day = "sun"
    made = pipeline.compress(method="prune", pruning_ratio=0.4, compression_epochs=2)
    trained, run = client.get_run(train_run_id).data, client.get_run(made.run_id).data
    assert (made.method, made.train_run_id, made.parent_version) == ("prune", train_run_id, 1)
    assert 0.4 <= 1 - run.metrics["multiplications"] / run.metrics["parent_multiplications"] < 0.6
    assert made.megabytes < 0.9 * made.parent_megabytes
    assert made.validation_accuracy > 0.6
    assert (run.params["model"], run.params["epochs"]) == ("fast_cnn", "2")
    assert float(run.params["learning_rate"]) == pytest.approx(0.1 * float(trained.params["learning_rate"]))
    assert int(run.params["parameters_total"]) < int(trained.params["parameters_total"])
    assert run.tags["pipeline.weights"] == trained.tags["pipeline.weights"]  # what its network once started from

    timed(1.5)
    judged, registered = pipeline.judge(made.run_id)
    assert registered.promoted, judged.reason
    card = str(registry.by_number("pets", 2).description)
    assert "- Made by `prune` from version 1, trained on 300 training images" in card
    assert f"the network `fast_cnn` ({int(run.params['parameters_total']):,} parameters)" in card
    assert "of its multiplications removed, then trained for `2` epochs" in card

    # A network's name stands for its whole shape: what is trained or compressed next starts from the model before.
    assert model_weights.about("models:/pets/2") == model_weights.about("models:/pets/1")
    pipeline.day = "mon2"
    next_run = pipeline.train(prepare_run_id, epochs=1, finetune="full", weights="models:/pets@champion")
    assert client.get_run(next_run).data.params["parameters_total"] == trained.params["parameters_total"]
    pipeline.day = "sun2"
    again = pipeline.compress()
    assert (again.train_run_id, again.parent_version) == (train_run_id, 1)
    with pytest.raises(ModelError, match="this network's multiplications can be removed, of the 99% asked for"):
        pipeline.compress(method="prune", pruning_ratio=0.99)
    stored = MlflowClient().get_logged_model(trained.tags["pipeline.logged_model_uri"].removeprefix("models:/"))
    file = Path(stored.artifact_location.removeprefix("file://")) / "data/model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match=f"of run {train_run_id}, from which models:/pets/2 was made, are not those"):
        model_weights.about("models:/pets/2")


def test_weights_of_a_pruned_network_that_were_changed_are_refused(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = {"trained_by": pipeline.train(pipeline.prepare(), epochs=1), "method": "prune"}

    def killed(*given: Any, **options: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(compress, "LoggedTraining", killed)
        with pytest.raises(KilledError):
            pipeline.compress(**pruned)
    run = next(queries.find_runs(tracking.connect(Settings()), {"pipeline.stage": "compress"}))
    path = Path(run.info.artifact_uri.removeprefix("file://")) / pruned_weights.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"pruned.safetensors of run {run.info.run_id} was changed; start a new DAG ru"):
        pipeline.compress(**pruned)


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        ("mobilenet_v3_small", {"method": "distill", "student": "fast_cnn"}),
        ("fast_cnn", {"method": "prune", "pruning_ratio": 0.3}),
    ],
    ids=["distill", "prune"],
)
def test_a_killed_training_goes_on_from_its_checkpoint(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    network: str,
    asked: dict[str, Any],
) -> None:
    train_run_id = pipeline.train(pipeline.prepare(), epochs=1, model=network)
    monkeypatch.setattr("tasks.vision.training.cadence.TIME_SHARE", 1e9)
    lesson = {"trained_by": train_run_id, "compression_epochs": 3, **asked}
    caplog.set_level("INFO")
    whole = pipeline.compress(**lesson)
    pipeline.day = "killed"
    save = CheckpointStore.save

    def killed(store: CheckpointStore, state: dict[str, Any], epoch: int, step: int = 0) -> None:
        save(store, state, epoch, step)
        if epoch == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", killed)
        with pytest.raises(KilledError):
            pipeline.compress(**lesson)
    resumed = pipeline.compress(**lesson)
    assert "resuming after epoch 2 of 3" in caplog.text
    assert resumed.model_sha256 == whole.model_sha256
    if asked["method"] == "prune":  # by the first try alone, of each of the two runs
        assert len([line for line in caplog.messages if line.startswith("removed ")]) == 2

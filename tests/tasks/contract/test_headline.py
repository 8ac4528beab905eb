"""The headline of a result, also of one that another release stored: fields missing, unknown, out of today's limits."""

from __future__ import annotations

import json

import pytest

from tasks.contract.stages import STAGES


@pytest.mark.parametrize(
    ("stage", "result", "headline"),
    [
        ("train", {"validation_accuracy": 0.98765, "best_epoch": 4}, "validation accuracy 0.9877, epoch 4"),
        (
            "train",
            {"validation_accuracy": 0.5, "best_epoch": 1, "tuned_by": "a", "of_a_later_release": 1},
            "validation accuracy 0.5000, epoch 1, tuned by a",
        ),
        (
            "tune",
            {
                "metric": "validation_accuracy",
                "best_value": 0.9,
                "best_trial": 3,
                "finished": 2,
                "stopped": 1,
                "failed": 0,
                "model": "gone_net",
                "hyperparameters": {"learning_rate": 99.0, "batch_size": 64},
            },
            "validation accuracy 0.9000 in trial 3 (2 finished, 1 stopped, 0 failed): gone_net, "
            "learning_rate 99, batch_size 64",
        ),
        (
            "prepare",
            {
                "classes": 2,
                "train_images": 1000,
                "validation_images": 1,
                "test_images": 1,
                "removed_images": 1234,
                "reused": True,
            },
            "1,002 images, 2 classes, 1,234 left out, gold reused",
        ),
        ("rollback", {"registered_model": "m", "version": 2, "previous_version": 3}, "m version 2, was 3"),
        (
            "compress",
            {
                "method": "int8",
                "megabytes": 1.85,
                "parent_megabytes": 6.45,
                "validation_accuracy": 0.8,
                "parent_validation_accuracy": 0.801,
            },
            "int8: 1.9 MB (before 6.5), validation accuracy 0.8000 (before 0.8010)",
        ),
        (
            "compress",
            {
                "method": "int8",
                "megabytes": 1.85,
                "parent_megabytes": 6.45,
                "validation_accuracy": None,
                "parent_validation_accuracy": None,
                "same_answers": 0.996,
            },
            "int8: 1.9 MB (before 6.5), 99.6% of the validation images answered as before",
        ),
        (
            "predict",
            {"images": 12345, "failed": 12, "version": 3, "images_per_second": 1234.5},
            "12,345 images by version 3, 12 failed, 1,234 images/s",
        ),
        ("evaluate", {"accuracy": 0.9, "promote": False}, "test accuracy 0.9000, refused"),
        (
            "register",
            {"registered_model": "m", "version": 2, "promoted": True, "created": False},
            "m version 2, champion, already registered",
        ),
        ("deploy", {"version": 2, "url": "http://h", "answers_checked": 5}, "version 2 at http://h, 5 answers equal"),
        ("deploy", {"version": 2, "skipped": "the service follows 'dogs'"}, "skipped: the service follows 'dogs'"),
    ],
)
def test_the_headline_of_a_stored_result(stage: str, result: dict[str, object], headline: str) -> None:
    assert STAGES[stage].stored_result(json.dumps(result)).headline == headline


def test_a_checked_result_has_the_same_headline() -> None:
    values = {"metric": "validation_accuracy", "best_value": 0.9, "best_trial": 3, "finished": 2, "stopped": 1,
              "failed": 0, "model": "fast_cnn", "hyperparameters": {"learning_rate": 0.5}, "epochs": 4,
              "run_id": "0" * 32, "experiment_id": "1", "seconds": 1}  # fmt: skip
    result = STAGES["tune"].parse_result(values)
    assert STAGES["tune"].stored_result(result.model_dump_json()).headline == result.headline

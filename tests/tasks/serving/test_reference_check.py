from __future__ import annotations

import base64
from typing import Any

import mlflow
import pytest

from tasks.errors import ModelError
from tasks.records import model_store
from tasks.serving.model_reference import Target
from tests.tasks.serving.samples import Brightness, Store, damage, load, log_model, new_run, picture

ANSWERS = {"dark": [0.9608, 0.0392, 0.0], "bright": [0.0, 0.0392, 0.9608]}


def reference(dark: list[float]) -> dict[str, Any]:
    image = base64.b64encode(picture(26)).decode()
    return {"tolerance": 0.01, "probes": [{"name": "one", "png": image, "class": "dark", "probabilities": dark}]}


def evaluated(document: dict[str, Any] | None) -> str:
    with new_run() as run:
        if document is not None:
            mlflow.log_dict(document, "probes.json")
    return str(run.info.run_id)


@pytest.fixture
def uri(store: Store) -> str:
    return log_model(Brightness([0, 1, 2]))[1]


def test_a_model_that_answers_as_in_evaluate_is_served(uri: str) -> None:
    target = Target(
        uri, None, None, None, model_store.artifact_sha256(uri), evaluated(reference([0.9608, 0.0392, 0.0]))
    )
    assert load(target).target == target


def test_without_an_evaluation_there_is_nothing_to_compare(uri: str) -> None:
    assert load(Target(uri, None, None, None))


@pytest.mark.parametrize("answers", [[0.90, 0.10, 0.0], [0.0, 0.04, 0.96]])
def test_other_answers_are_refused(uri: str, answers: list[float]) -> None:
    with pytest.raises(ModelError, match=r"answers reference image 'one' differently than in evaluate"):
        load(Target(uri, None, None, None, None, evaluated(reference(answers))))


def test_another_number_of_classes_is_refused(uri: str) -> None:
    with pytest.raises(ModelError, match=r"answers \(1, 3\), evaluate got \(1, 2\)"):
        load(Target(uri, None, None, None, None, evaluated(reference([0.9, 0.1]))))


def test_an_evaluation_without_reference_predictions_is_refused(uri: str) -> None:
    with pytest.raises(ModelError, match=r"has no probes\.json"):
        load(Target(uri, None, None, None, None, evaluated(None)))


def test_files_changed_in_the_store_are_refused(uri: str) -> None:
    registered = model_store.artifact_sha256(uri)
    damage(uri)
    with pytest.raises(ModelError, match="are not those that were registered"):
        load(Target(uri, None, None, None, registered))

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tasks.errors import ChangedError, DataError
from tasks.records import gold_store, verified_artifacts
from tasks.records.tracking import connect
from tasks.settings import Settings
from tasks.vision.data import gold as gold_format
from tasks.vision.data.gold import DESCRIPTION, TENSORS, Gold, Split


@pytest.fixture
def experiment(settings: Settings) -> str:
    return connect(settings)


@pytest.fixture
def gold() -> Gold:
    split = Split(np.ones((2, 1, 8, 8), np.uint8), np.array([0, 1]), ("a", "b"))
    return Gold(split, split, split, ("cat", "dog"), (0.5,), (0.2,), "f" * 64, "pets")


def stored(experiment: str, gold: Gold) -> str:
    with mlflow.start_run(experiment_id=experiment) as run:
        gold_store.store(gold)
        mlflow.set_tag(gold_store.GOLD_RUN, run.info.run_id)
    return str(run.info.run_id)


def tensors_of(run_id: str) -> Path:
    uri = mlflow.get_run(run_id).info.artifact_uri
    return Path(mlflow.artifacts.download_artifacts(f"{uri}/gold/{TENSORS}"))


def test_gold_is_fetched_through_the_run_that_made_it(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    fetched = gold_store.fetch(run_id)
    assert fetched.classes == gold.classes
    np.testing.assert_array_equal(fetched.train.images, gold.train.images)


def test_gold_is_fetched_through_a_run_that_used_it_again(experiment: str, gold: Gold) -> None:
    maker = stored(experiment, gold)
    with mlflow.start_run(experiment_id=experiment) as later:
        mlflow.set_tag(gold_store.GOLD_RUN, maker)
    assert gold_store.fetch(later.info.run_id).fingerprint == gold.fingerprint


def test_a_run_without_gold_is_named(experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.set_tag(gold_store.GOLD_RUN, run.info.run_id)
    with pytest.raises(DataError, match=f"run '{run.info.run_id}' has no artifact 'gold'"):
        gold_store.fetch(run.info.run_id)


def test_a_run_that_prepared_nothing_is_named(experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        pass
    with pytest.raises(DataError, match=r"has no tag 'pipeline.gold_run_id'"):
        gold_store.fetch(run.info.run_id)


def test_an_unknown_run_is_named(experiment: str) -> None:
    with pytest.raises(DataError, match="no run '0000"):
        gold_store.fetch("0" * 32)
    assert not gold_store.exists("0" * 32)


def test_a_deleted_run_has_no_gold(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    assert gold_store.exists(run_id)
    mlflow.delete_run(run_id)
    assert not gold_store.exists(run_id)


def test_half_a_gold_does_not_exist(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    tensors_of(run_id).unlink()
    assert not gold_store.exists(run_id)


def description_of(run_id: str) -> Path:
    return tensors_of(run_id).with_name(DESCRIPTION)


def stored_before_digests(experiment: str, gold: Gold) -> str:
    """Gold as releases stored it that set no digests."""
    run_id = stored(experiment, gold)
    for name in [name for name in mlflow.get_run(run_id).data.tags if name.startswith(verified_artifacts.TAG)]:
        MlflowClient().delete_tag(run_id, name)
    return run_id


def poison(run_id: str) -> None:
    """Swap the classes: valid gold, with every label wrong."""
    file = description_of(run_id)
    text = file.read_text()
    assert '"train": [\n   "a",\n   "b"' in text
    file.write_text(text.replace('"a"', '"c"'))


def test_gold_that_someone_changed_is_refused(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    poison(run_id)
    gold_format.load(description_of(run_id).parent)  # nothing but the digest tells
    with pytest.raises(ChangedError, match=rf"gold/gold.json of run {run_id} was changed in the store .*force="):
        gold_store.fetch(run_id)


def test_damaged_gold_is_refused(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    tensors_of(run_id).write_bytes(b"damaged")
    with pytest.raises(ChangedError, match=r"gold/gold\.safetensors of run"):
        gold_store.fetch(run_id)


def test_a_file_that_someone_added_is_refused(experiment: str, gold: Gold) -> None:
    run_id = stored(experiment, gold)
    tensors_of(run_id).with_name("more.json").write_text("{}")
    with pytest.raises(ChangedError, match=r"gold/more\.json .* not logged by the stage"):
        gold_store.fetch(run_id)


def test_gold_of_an_earlier_release_is_read_and_can_be_adopted(experiment: str, gold: Gold) -> None:
    run_id = stored_before_digests(experiment, gold)
    assert gold_store.fetch(run_id).classes == gold.classes
    assert gold_store.adopt(run_id)[0].classes == gold.classes
    poison(run_id)
    with pytest.raises(ChangedError, match="was changed in the store"):
        gold_store.fetch(run_id)


def test_damaged_gold_of_an_earlier_release_is_not_adopted(experiment: str, gold: Gold) -> None:
    run_id = stored_before_digests(experiment, gold)
    tensors_of(run_id).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be used"):
        gold_store.adopt(run_id)
    assert not any(name.startswith(verified_artifacts.TAG) for name in mlflow.get_run(run_id).data.tags)

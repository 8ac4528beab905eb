from __future__ import annotations

import json
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.recipe import Hyperparameters
from tasks.contract.training import TrainRequest
from tasks.errors import DataError
from tasks.records import ledger, registry, tracking, tuned_sets
from tasks.records.ledger import Kind
from tasks.records.tuned_sets import TunedSet
from tasks.settings import Settings
from tests.tasks.records.entries import NAME, entry


@pytest.fixture
def experiment_id(settings: Settings) -> str:
    return tracking.connect(settings)


def search(experiment_id: str, learning_rate: float, dataset: str = "digits", model: str = "fast_cnn") -> TunedSet:
    run_id = MlflowClient().create_run(experiment_id).info.run_id
    tuned = TunedSet(run_id, dataset, model, Hyperparameters(learning_rate=learning_rate))
    tuned_sets.keep(tuned)
    return tuned


def version_of(experiment_id: str, tuned: TunedSet | None) -> int:
    run_id = MlflowClient().create_run(experiment_id).info.run_id
    tags = {tuned_sets.TUNE_RUN: tuned.run_id} if tuned else {}
    return int(registry.create_version(NAME, f"runs:/{run_id}/model", run_id, tags, "").version)


def record(kind: Kind, version: int, before: int | None, **changes: Any) -> None:
    with ledger.recorded(entry(kind, version, before, f"{kind}-{version}-{before}", **changes)):
        pass


def request(**values: Any) -> TrainRequest:
    task = {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}
    return TrainRequest.model_validate({"task": task, "prepare_run_id": "0" * 32, "registered_model": NAME, **values})


def choose(experiment_id: str, run_id: str | None = None, **values: Any) -> tuple[TunedSet | None, str]:
    with mlflow.start_run(run_id=run_id, experiment_id=None if run_id else experiment_id) as run:
        chosen = tuned_sets.choose(request(**values), run.info.run_id, "digits")
        tuned_sets.keep_choice(run.info.run_id, chosen)
        return chosen, str(run.info.run_id)


def test_a_set_is_read_as_it_was_kept_and_lies_beside_its_run(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02)
    assert tuned_sets.read(tuned.run_id) == tuned
    artifact = mlflow.artifacts.load_dict(f"runs:/{tuned.run_id}/hyperparameters.json")
    assert artifact == json.loads(tuned.hyperparameters.model_dump_json())


def test_a_set_of_an_earlier_release_has_the_defaults_for_what_it_did_not_know(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02)
    new = {"auto_augment", "mixup", "cutmix", "class_balance", "layer_decay"}
    MlflowClient().set_tag(tuned.run_id, tuned_sets.HYPERPARAMETERS, tuned.hyperparameters.model_dump_json(exclude=new))
    assert tuned_sets.read(tuned.run_id) == tuned


def test_without_a_champion_that_was_tuned_there_is_none(experiment_id: str) -> None:
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") is None
    search(experiment_id, 0.02)
    record(Kind.PROMOTION, version_of(experiment_id, None), None)
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") is None


def test_only_promoted_sets_count_and_the_newest_wins(experiment_id: str) -> None:
    first, second, refused = (search(experiment_id, rate) for rate in (0.01, 0.02, 0.03))
    versions = [version_of(experiment_id, tuned) for tuned in (first, second, refused)]
    record(Kind.PROMOTION, versions[0], None)
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == first
    record(Kind.PROMOTION, versions[1], versions[0])
    record(Kind.REFUSAL, versions[2], versions[1])
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == second


def test_a_champion_that_was_not_tuned_does_not_hide_the_set_before_it(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02)
    first = version_of(experiment_id, tuned)
    record(Kind.PROMOTION, first, None)
    record(Kind.PROMOTION, version_of(experiment_id, None), first)
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == tuned


def test_what_was_rolled_back_proves_nothing(experiment_id: str) -> None:
    good, bad = search(experiment_id, 0.01), search(experiment_id, 0.02)
    first, second = version_of(experiment_id, good), version_of(experiment_id, bad)
    record(Kind.PROMOTION, first, None)
    record(Kind.PROMOTION, second, first)
    record(Kind.ROLLBACK, first, second, former_sha256=f"sha{second}", key="rollback/1/rollback/-1")
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == good


def test_another_data_set_or_network_has_sets_of_its_own(experiment_id: str) -> None:
    record(Kind.PROMOTION, version_of(experiment_id, search(experiment_id, 0.01)), None)
    assert tuned_sets.newest_proven(NAME, "cifar10", "fast_cnn") is None
    assert tuned_sets.newest_proven(NAME, "digits", "resnet18") is None
    assert tuned_sets.newest_proven("others", "digits", "fast_cnn") is None


def test_a_deleted_search_is_passed_over(experiment_id: str, caplog: pytest.LogCaptureFixture) -> None:
    kept, gone = search(experiment_id, 0.01), TunedSet("f" * 32, "digits", "fast_cnn", Hyperparameters())
    record(Kind.PROMOTION, version_of(experiment_id, kept), None)
    record(Kind.PROMOTION, version_of(experiment_id, gone), 1)
    assert tuned_sets.newest_proven(NAME, "digits", "fast_cnn") == kept
    assert "the hyperparameters of version 2 are skipped" in caplog.text


def test_a_training_takes_the_proven_set_and_says_so(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02)
    record(Kind.PROMOTION, version_of(experiment_id, tuned), None)
    chosen, run_id = choose(experiment_id)
    assert chosen == tuned
    assert tuned_sets.version_tags(mlflow.get_run(run_id).data.tags) == {tuned_sets.TUNE_RUN: tuned.run_id}


def test_choosing_writes_nothing(experiment_id: str) -> None:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        before = MlflowClient().get_run(run.info.run_id).data.tags
        assert tuned_sets.choose(request(), run.info.run_id, "digits") is None
        assert MlflowClient().get_run(run.info.run_id).data.tags == before


def test_who_asks_for_the_defaults_gets_them(experiment_id: str) -> None:
    record(Kind.PROMOTION, version_of(experiment_id, search(experiment_id, 0.02)), None)
    chosen, run_id = choose(experiment_id, hyperparameters="default")
    assert chosen is None
    assert tuned_sets.version_tags(mlflow.get_run(run_id).data.tags) == {}


def test_a_retry_takes_what_the_first_try_took(experiment_id: str) -> None:
    chosen, run_id = choose(experiment_id)
    assert chosen is None
    record(Kind.PROMOTION, version_of(experiment_id, search(experiment_id, 0.02)), None)
    assert choose(experiment_id, run_id)[0] is None
    assert choose(experiment_id)[0] is not None


def test_a_search_that_is_named_is_used_before_it_is_proven(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02)
    assert choose(experiment_id, tuned_by=tuned.run_id)[0] == tuned


def test_a_search_for_something_else_is_refused(experiment_id: str) -> None:
    tuned = search(experiment_id, 0.02, model="resnet18")
    with pytest.raises(DataError, match="searched for resnet18 on digits, not for fast_cnn on digits"):
        choose(experiment_id, tuned_by=tuned.run_id)


def test_a_run_that_is_no_finished_search_is_refused(experiment_id: str) -> None:
    run_id = MlflowClient().create_run(experiment_id).info.run_id
    with pytest.raises(DataError, match=r"has no tag 'pipeline\.hyperparameters'"):
        choose(experiment_id, tuned_by=run_id)

"""Which weights a cleaning removes, and which it never touches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.errors import ChangedError, UnavailableError
from tasks.records import artifact_names, ledger, paging, queries, registry, removed_weights
from tasks.records.compressed_models import TRAIN_RUN
from tasks.records.ledger import Kind
from tasks.retention import candidates
from tasks.serving import client as service
from tasks.settings import Settings

from .conftest import EMPTY, NAME, WHOLE, Judge, Make, clean, files, found, record, refused

# --- What goes


def test_weights_of_an_old_refused_candidate_go_and_their_evidence_stays(
    settings: Settings, make: Make, judge: Judge, champion: str
) -> None:
    run_id, new = refused(make, judge), refused(make, judge, 80)
    assert found(settings) == {run_id}
    clean(settings)
    assert [files(one) for one in (run_id, new, champion)] == [EMPTY, WHOLE, WHOLE]
    client, version = MlflowClient(), registry.by_number(NAME, 2)
    said = f"on {datetime.now(UTC):%Y-%m-%d} by clean: refused on {datetime.now(UTC) - timedelta(days=200):%Y-%m-%d}"
    assert client.get_run(run_id).data.tags[removed_weights.TAG] == version.tags[removed_weights.TAG] == said
    assert version.description == "its model card"
    assert client.get_run(run_id).info.lifecycle_stage == "active"
    assert found(settings) == set()


def test_the_model_of_a_run_that_led_to_no_version_goes(settings: Settings, make: Make, champion: str) -> None:
    old, compressed, new = make("train", sha256="a"), make("compress", 150, sha256="b"), make("train", 80, sha256="c")
    assert found(settings) == {old, compressed}
    clean(settings)
    assert "never registered" in MlflowClient().get_run(old).data.tags[removed_weights.TAG]
    assert [files(run_id) for run_id in (old, new, champion)] == [EMPTY, WHOLE, WHOLE]


def test_the_time_is_a_setting_and_none_keeps_all(settings: Settings, make: Make, judge: Judge, champion: str) -> None:
    old, newer = refused(make, judge, 200), refused(make, judge, 50)
    assert found(settings.model_copy(update={"pipeline_keep_weights_days": 0})) == set()
    assert found(settings.model_copy(update={"pipeline_keep_weights_days": 30})) == {old, newer}


def test_a_history_of_thousands_is_read_to_its_end(
    settings: Settings, make: Make, judge: Judge, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of three stand for those of a thousand."""
    monkeypatch.setattr(paging, "PAGE", 3)
    monkeypatch.setattr(paging, "FEW", 2)
    many = [refused(make, judge, 200 - day) for day in range(11)]
    record(Kind.PROMOTION, 12, "of-190", 100, before=1)  # the last of them became champion later
    assert found(settings) == set(many[:-1])


# --- What never goes


def alias(make: Make, judge: Judge, run_id: str) -> None:
    registry.set_alias(NAME, "favourite", 2)


def stage_of_the_registry(make: Make, judge: Judge, run_id: str) -> None:
    MlflowClient().transition_model_version_stage(NAME, "2", "Production")


def made_champion_later(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.ROLLBACK, 2, "of-200", 100, before=1)


def champion_before(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.PROMOTION, 7, "other", 100, before=2)


def could_not_be_deployed(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.FAILED_DEPLOY, 2, "of-200", 100, before=1)


def same_weights_became_champion(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.PROMOTION, 9, "of-200", 100, before=1)


def judged_again_lately(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.REFUSAL, 2, "of-200", 20, before=1)


def move_that_did_not_end(make: Make, judge: Judge, run_id: str) -> None:
    record(Kind.REFUSAL, 2, "of-200", 150, before=1, finished=False)


def version_of_another_registered_model(make: Make, judge: Judge, run_id: str) -> None:
    judge(run_id, Kind.PROMOTION, 150, name="dogs")


def compression_in_service(make: Make, judge: Judge, run_id: str) -> None:
    small = make("compress", 150, sha256="small", tags={TRAIN_RUN: run_id})
    judge(small, Kind.PROMOTION, 150, before=1)


def unfinished_compression(make: Make, judge: Judge, run_id: str) -> None:
    make("compress", 150, tags={TRAIN_RUN: run_id}, ended=False)


def unfinished_training_that_starts_from_it(make: Make, judge: Judge, run_id: str) -> None:
    make("train", 150, tags={"pipeline.weights": f"models:/{NAME}/2"}, ended=False)


def recent_run_that_reused_it(make: Make, judge: Judge, run_id: str) -> None:
    make("train", 3, tags={"pipeline.reused_from": run_id})


def task_of_its_dag_run_that_was_cleared(make: Make, judge: Judge, run_id: str) -> None:
    make("register", 1, dag_run_id="200 days ago")


@pytest.mark.parametrize(
    "named_by",
    [alias, stage_of_the_registry, made_champion_later, champion_before, could_not_be_deployed,
     same_weights_became_champion, judged_again_lately, move_that_did_not_end, version_of_another_registered_model,
     compression_in_service, unfinished_compression, unfinished_training_that_starts_from_it, recent_run_that_reused_it,
     task_of_its_dag_run_that_was_cleared],
)  # fmt: skip
def test_what_anything_names_stays(
    settings: Settings, make: Make, judge: Judge, champion: str, named_by: Callable[[Make, Judge, str], None]
) -> None:
    run_id = refused(make, judge)
    assert found(settings) == {run_id}
    named_by(make, judge, run_id)
    assert run_id not in found(settings)
    assert champion not in found(settings)


def test_a_version_that_the_ledger_does_not_know_stays(settings: Settings, make: Make, champion: str) -> None:
    run_id = make("train", sha256="by-hand")
    registry.create_version(NAME, f"runs:/{run_id}/model", run_id, {}, "")
    assert found(settings) == set()


def test_the_champions_weights_stay_in_every_run_that_logged_them(
    settings: Settings, make: Make, champion: str
) -> None:
    again = make("train", 150, sha256="of-champion")
    other = make("train", 140, sha256="of-nobody")
    assert found(settings) == {other}
    assert files(again) == WHOLE


@pytest.mark.parametrize("pinned", ["2", f"models:/{NAME}/2", "RUN", "runs:/RUN/model", "MODEL"])
def test_what_the_service_is_told_to_serve_stays(
    settings: Settings, make: Make, judge: Judge, champion: str, pinned: str
) -> None:
    run_id = refused(make, judge)
    uri = MlflowClient().get_run(run_id).data.tags[artifact_names.MODEL_URI]
    told = {"serving_model": pinned.replace("RUN", run_id).replace("MODEL", uri), "serving_registered_model": NAME}
    assert found(settings.model_copy(update=told)) == set()


class Server(service.ServiceClient):
    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.url, self._answer = "http://serving", answer

    def info(self) -> dict[str, Any] | None:
        return self._answer


def test_what_the_service_answers_with_stays(
    settings: Settings, make: Make, judge: Judge, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(make, judge)
    answer = {"registered_model": NAME, "model_version": 2, "run_id": None}
    monkeypatch.setattr(service, "replicas", lambda *_: [Server(answer)])
    assert found(settings) == set()


# --- When something cannot be seen


def test_a_service_that_does_not_answer_stops_a_cleaning_of_the_stack(
    settings: Settings, make: Make, judge: Judge, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = refused(make, judge)
    monkeypatch.setattr(service, "replicas", lambda *_: [Server(None)])
    with pytest.raises(UnavailableError, match="does not answer, so nobody can say what it serves"):
        found(settings.model_copy(update={"pipeline_runtime": "docker"}))
    assert found(settings) == {run_id}  # on a laptop it often is not there


def test_a_missing_record_of_the_ledger_stops_it(settings: Settings, make: Make, judge: Judge, champion: str) -> None:
    refused(make, judge)
    promotion = record(Kind.PROMOTION, 2, "of-200", 150, before=1)
    record(Kind.REFUSAL, 3, "another", 140, before=2)
    MlflowClient().delete_run(promotion)
    with pytest.raises(ChangedError, match=r"nothing is removed, because the ledger .* is gone"):
        found(settings)


@pytest.mark.parametrize("question", ["find_versions", "all_runs", "aliases", "ledger"])
def test_an_answer_that_cannot_be_had_stops_it(
    settings: Settings, make: Make, judge: Judge, champion: str, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    run_id = refused(make, judge)

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the database is away")

    module: Any = {"aliases": MlflowClient, "ledger": ledger}.get(question, queries)
    name = {"aliases": "get_registered_model", "ledger": "history"}.get(question, question)
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(MlflowException):
        clean(settings)
    monkeypatch.undo()
    assert files(run_id) == WHOLE
    assert removed_weights.TAG not in MlflowClient().get_run(run_id).data.tags


def test_every_alias_is_read(settings: Settings, make: Make, judge: Judge, champion: str) -> None:
    """MLflow's search returns versions without their aliases."""
    refused(make, judge)
    assert [version.aliases for version in queries.find_versions()] == [[], []]
    sorted_ = candidates.read(datetime.now(UTC), set())
    assert [int(version.version) for version in sorted_.kept] == [1]

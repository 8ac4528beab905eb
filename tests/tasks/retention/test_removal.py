"""What is used after it was found stays, and a removal that was killed is finished by the next one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.errors import ModelError
from tasks.records import queries, registry, removed_weights
from tasks.records.compressed_models import TRAIN_RUN
from tasks.records.inputs.evaluation import TrainedModel
from tasks.records.ledger import Kind
from tasks.records.tracking import RunTags
from tasks.retention import leftovers, weights
from tasks.retention.leftovers import Store
from tasks.serving import client as service
from tasks.settings import Settings

from .conftest import EMPTY, LIMIT, NAME, WHOLE, Judge, Make, clean, files, found, record, refused

# --- While others work


def used_by_an_alias(make: Make, run_id: str) -> None:
    registry.set_alias(NAME, "favourite", 2)


def used_by_a_rollback(make: Make, run_id: str) -> None:
    record(Kind.ROLLBACK, 2, "of-200", 0, before=1, finished=False)


def used_by_another_version(make: Make, run_id: str) -> None:
    registry.create_version("dogs", f"runs:/{run_id}/model", run_id, {"pipeline.train_run_id": run_id}, "")


def used_by_a_new_run(make: Make, run_id: str) -> None:
    make("compress", 0, tags={TRAIN_RUN: run_id}, ended=False)


def used_by_an_old_run_that_goes_on(make: Make, run_id: str) -> None:
    evaluate = queries.newest_run(MlflowClient().get_run(run_id).info.experiment_id, {"pipeline.stage": "evaluate"})
    assert evaluate is not None
    assert evaluate.data.params["train_run_id"] == run_id
    MlflowClient().update_run(evaluate.info.run_id, status="RUNNING")


@pytest.mark.parametrize(
    "use",
    [used_by_an_alias, used_by_a_rollback, used_by_another_version, used_by_a_new_run, used_by_an_old_run_that_goes_on],
)
def test_what_is_used_after_it_was_found_stays(
    settings: Settings, make: Make, judge: Judge, champion: str, use: Callable[[Make, str], None]
) -> None:
    run_id = refused(make, judge)
    store = Store.read(settings, LIMIT)
    (item,) = leftovers.find(settings, LIMIT, store)
    assert not leftovers.used_again(item, store, LIMIT)
    use(make, run_id)
    assert leftovers.used_again(item, store, LIMIT)


# --- Killed in between


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", range(4))
def test_killed_at_any_write_and_run_again_it_ends_the_same(
    settings: Settings, make: Make, judge: Judge, champion: str, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed before the tag of the version, of the run, before the files go, and after half of them went."""
    run_id = refused(make, judge)
    left = writes

    def killed(real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return real(*given, **named)

    class Half:
        def __init__(self, location: str) -> None:
            self._real = repository(location)

        def list_artifacts(self, folder: str) -> Any:
            return self._real.list_artifacts(folder)

        def delete_artifacts(self, folder: str) -> None:
            killed(lambda: None)
            self._real.delete_artifacts(f"{folder}/model.onnx")
            raise Killed

    repository = get_artifact_repository
    monkeypatch.setattr(weights, "get_artifact_repository", Half)
    for name in ("set_model_version_tag", "set_tag"):
        monkeypatch.setattr(MlflowClient, name, functools.partialmethod(killed_by(killed, name)))
    with pytest.raises(Killed):
        clean(settings)
    monkeypatch.undo()
    monkeypatch.setattr(service, "replicas", lambda *_: [])
    monkeypatch.setenv("PIPELINE_HOME", str(settings.pipeline_home))
    if len(files(run_id)) < len(WHOLE):  # nobody takes a part for a model
        with pytest.raises(ModelError, match=r"the weights of run .* were removed"):
            TrainedModel.of(RunTags.read(run_id))
    clean(settings)
    assert files(run_id) == EMPTY
    assert removed_weights.TAG in MlflowClient().get_run(run_id).data.tags
    assert removed_weights.TAG in registry.by_number(NAME, 2).tags
    assert found(settings) == set()


def killed_by(killed: Callable[..., Any], name: str) -> Callable[..., Any]:
    real = getattr(MlflowClient, name)

    def write(client: MlflowClient, *given: Any, **named: Any) -> Any:
        return killed(real, client, *given, **named)

    return write

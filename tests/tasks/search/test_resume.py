"""What a trial and its run have when an earlier try was killed between two of their writes; without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray.tune.experiment import Trial as RayTrial

from tasks.cluster.shared_gold import SharedGold
from tasks.contract.messages import TaskIdentity
from tasks.contract.recipe import Basis
from tasks.contract.training import TuneRequest
from tasks.errors import RequestError
from tasks.records import tracking
from tasks.records.tracking import StageRun
from tasks.search.earlier_trial import NUMBER, EarlierTrial, State
from tasks.search.earlier_trials import read_earlier
from tasks.search.journal import Journal
from tasks.search.table import trial_runs
from tasks.search.trial import BATCHES, Plan, Trial, recipe_of
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.training import checkpoints

CONFIG = {NUMBER: 0, "learning_rate": 0.01, "batch_size": 50}


@pytest.fixture
def request_() -> TuneRequest:
    return TuneRequest(
        task=TaskIdentity(dag_id="weekly", dag_run_id="one", task_id="tune"),
        prepare_run_id="1" * 32,
        trials=1,
        epochs=3,
        log_every=2,
        device="cpu",
    )


@pytest.fixture
def run(settings: Settings) -> Iterator[StageRun]:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as tune:
        yield StageRun(tune.info.run_id, tune.info.experiment_id, "")


def plan_of(request: TuneRequest, known: Mapping[int, EarlierTrial] | None = None) -> Plan:
    return Plan(request, known or {}, Basis("digits", 100, 8), {})


def shared(gold: Gold) -> SharedGold:
    handed: Any = SimpleNamespace(open=lambda: gold)
    return handed


def ray_trial() -> RayTrial:
    trial: Any = SimpleNamespace(config=CONFIG, last_result={}, error_file=None)
    return trial


def begun(journal: Journal, run: StageRun) -> Run:
    """The run of the only trial, when it has begun."""
    journal.on_trial_start(0, [], ray_trial())
    journal.finish()
    [found] = trial_runs(run.experiment_id, run.run_id)
    return found


def test_a_run_that_was_made_and_no_more_gets_its_parameters(
    request_: TuneRequest, run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "_log_params", lambda self, entry: None)
        half = begun(Journal(plan_of(request_), run), run)
    assert half.data.params == {}
    whole = begun(Journal(plan_of(request_, read_earlier(run.experiment_id, run.run_id)), run), run)
    assert whole.info.run_id == half.info.run_id
    expected = recipe_of(plan_of(request_), CONFIG).model_dump(mode="json")
    assert whole.data.params == {name: str(value) for name, value in expected.items()}


def test_a_stopped_search_marks_what_it_was_trying_and_the_next_try_goes_on_with_it(
    request_: TuneRequest, run: StageRun
) -> None:
    journal = Journal(plan_of(request_), run)
    journal.on_trial_start(0, [], ray_trial())
    journal.interrupt()
    journal.finish()
    [known] = read_earlier(run.experiment_id, run.run_id).values()
    assert not known.ended
    assert MlflowClient().get_run(known.run_id).info.status == "KILLED"
    assert begun(Journal(plan_of(request_, {0: known}), run), run).info.status == "RUNNING"


def test_batches_that_mlflow_may_not_have_yet_are_told_again(
    request_: TuneRequest, digits_gold: Gold, tmp_path: Path
) -> None:
    """A kill may come when the checkpoint is there and its epochs' batches are not sent."""
    first = Trial.__new__(Trial)
    first.setup(CONFIG, gold=shared(digits_gold), plan=plan_of(request_))
    told = [first.step()[BATCHES] for _ in range(2)]
    assert all(told)
    first.save_checkpoint(str(tmp_path))
    before = EarlierTrial(0, "r" * 32, {}, "c" * 64, State.RUNNING, "", (), (str(tmp_path),))
    second = Trial.__new__(Trial)
    second.setup(CONFIG, gold=shared(digits_gold), plan=plan_of(request_, {0: before}))
    assert [second.step()[BATCHES] for _ in range(2)] == told
    assert second.step()[BATCHES]


def test_nothing_is_taken_from_a_checkpoint_of_another_recipe(
    request_: TuneRequest, digits_gold: Gold, tmp_path: Path
) -> None:
    other = Trial.__new__(Trial)
    other.setup(CONFIG | {"learning_rate": 0.02}, gold=shared(digits_gold), plan=plan_of(request_))
    other.step()
    other.step()
    other.save_checkpoint(str(tmp_path / "other"))
    before = EarlierTrial(0, "r" * 32, {}, "c" * 64, State.RUNNING, "", (), (str(tmp_path / "other"),))
    trial = Trial.__new__(Trial)
    trial.setup(CONFIG, gold=shared(digits_gold), plan=plan_of(request_, {0: before}))
    trial.step()
    trial.save_checkpoint(str(tmp_path / "own"))
    state = checkpoints.load_newest(tmp_path / "own")
    assert state is not None
    assert set(state[BATCHES]) == {1}


def test_a_trial_on_a_device_that_is_not_there_fails_with_its_name(request_: TuneRequest, digits_gold: Gold) -> None:
    trial = Trial.__new__(Trial)
    trial.setup(CONFIG, gold=shared(digits_gold), plan=plan_of(request_.model_copy(update={"device": "mps"})))
    with pytest.raises(RequestError, match="device='mps' is not available"):
        trial.step()

"""A trial on two workers, in a placement group as Tune makes it, on a real Ray."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tasks.cluster import supervisor
from tasks.cluster.room import Share
from tasks.cluster.session import ray_with
from tasks.cluster.shared_gold import HeldGold
from tasks.contract.messages import TaskIdentity
from tasks.contract.recipe import Basis, Recipe
from tasks.contract.training import TuneRequest
from tasks.distributed.trial_workers import TrialWorkers
from tasks.errors import UnavailableError
from tasks.search.earlier_trial import NUMBER
from tasks.search.trial import BATCHES, Plan, Trial, recipe_of
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import Replicas
from tests.digits import digits_as_gold
from tests.tasks.vision.training.replicas_in_processes import together
from tests.waiting import until

CONFIG = {NUMBER: 0, "learning_rate": 0.002}
LOSSES = ("epoch", "train_loss", "validation_loss", "validation_accuracy")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray, with a path short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def workers(temporary: Path) -> list[int]:
    """IDs of the processes that train for a trial."""
    named = {process: Path(f"/proc/{process}/cmdline") for process in supervisor.users(temporary)}
    return [process for process, title in named.items() if title.exists() and b"TrialWorker" in title.read_bytes()]


def two_epochs(own: Replicas, recipe: dict[str, Any]) -> list[EpochEnd]:
    """Train as each worker of the train stage does."""
    ends = (
        end for end in Training(Recipe(**recipe), digits_as_gold(), replicas=own).run() if isinstance(end, EpochEnd)
    )
    return [next(ends), next(ends)]


@pytest.fixture
def plan() -> Plan:
    request = TuneRequest(
        task=TaskIdentity(dag_id="weekly", dag_run_id="one", task_id="tune"),
        **{"prepare_run_id": "1" * 32, "epochs": 60, "batch_size": 50, "log_every": 1, "device": "cpu"},
        trial_workers=2,
    )
    return Plan(request, {}, Basis("digits", 200, 8), {})


@pytest.fixture
def expected(plan: Plan, tmp_path: Path) -> list[EpochEnd]:
    recipe = recipe_of(plan, CONFIG).model_dump(mode="json")
    ends: list[EpochEnd] = together(two_epochs, tmp_path / "replicas", recipe, size=2)[0]
    return ends


def test_a_trial_trains_as_the_train_stage_does_and_its_workers_end_with_it(
    settings: Settings, plan: Plan, expected: list[EpochEnd], temporary: Path, tmp_path: Path, digits_gold: Gold
) -> None:
    with ray_with(lambda nodes, address: None, 1, settings, digits_gold.nbytes):
        gold = HeldGold(ray.put(digits_gold))
        plan = replace(plan, workers=TrialWorkers(2, Share(1, 0), gold, 300))
        group = ray.util.placement_group([{"CPU": 1}] * 2)
        ray.get(group.ready())
        strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        process: Any = ray.remote(tune.with_parameters(Trial, gold=gold, plan=plan))
        trial = process.options(num_cpus=0, scheduling_strategy=strategy).remote(CONFIG)

        def epoch() -> dict[str, Any]:
            return ray.get(trial.step.remote())

        told = [epoch()]
        ray.get(trial.save_checkpoint.remote(str(tmp_path / "saved")))
        told.append(epoch())
        for result, end in zip(told, expected, strict=True):
            assert [result[name] for name in LOSSES] == pytest.approx([asdict(end)[name] for name in LOSSES], rel=1e-5)
            assert [step for step, _, _ in result[BATCHES]] == [4 * end.epoch - 3 + i for i in range(4)]
        assert len(workers(temporary)) == 2

        assert ray.get(trial.reset_config.remote(CONFIG | {NUMBER: 1}))  # stopped, and another one begins there
        until(lambda: not workers(temporary))
        ray.get(trial.load_checkpoint.remote(str(tmp_path / "saved")))
        again = epoch()
        assert [again[name] for name in LOSSES] == pytest.approx([told[1][name] for name in LOSSES], rel=1e-5)

        os.kill(workers(temporary)[-1], signal.SIGKILL)
        with pytest.raises(UnavailableError, match="a worker of the trial was lost"):
            list(iter(epoch, None))
        until(lambda: not workers(temporary))

"""Runs a search: trials on Ray, recorded in MLflow, resumed where an earlier try was killed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.execution.placement_groups import PlacementGroupFactory
from torch import Tensor

from tasks.cluster.gold_files import is_stored, share
from tasks.cluster.room import Share
from tasks.cluster.session import SLOT
from tasks.cluster.shared_gold import SharedGold
from tasks.contract.recipe import Basis
from tasks.contract.training import TuneRequest
from tasks.distributed.trial_workers import TrialWorkers
from tasks.distributed.workers import patience
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.tracking import StageRun
from tasks.search.earlier_trial import NUMBER
from tasks.search.earlier_trials import read_earlier
from tasks.search.journal import Journal
from tasks.search.progress import Progress
from tasks.search.room import ray_for
from tasks.search.schedulers import make_scheduler
from tasks.search.searchers import combinations, make_searcher
from tasks.search.storage import SearchStorage, credentials
from tasks.search.trial import Plan, Trial
from tasks.settings import Settings
from tasks.vision.data.gold import Gold

# A trial whose machine was lost resumes on another. Ray does not tell that from a failure of the trial itself, so on a
# cluster that is retried as often.
LOST_MACHINES = 2

log = logging.getLogger("tasks.tune")


@dataclass(frozen=True)
class Start:
    """What every trial starts from.

    Attributes:
        gold: the images.
        data: where they are stored, for trials that read them from disk.
        basis: what the defaults of a recipe depend on.
        trained: trained weights by network; a network that has none starts from random ones.
    """

    gold: Gold
    data: PreparedData
    basis: Basis
    trained: Mapping[str, Mapping[str, Tensor]]


def run_search(request: TuneRequest, run: StageRun, settings: Settings, start: Start) -> None:
    """Run all trials that earlier tries of the stage have not finished, and record them in MLflow.

    Raises:
        RequestError: there is too little room for one trial.
        UnavailableError: no Ray, MLflow or storage answers.
    """
    trials = combinations(request)
    with credentials(settings):
        storage = SearchStorage(settings, run.run_id)
        known = read_earlier(run.experiment_id, run.run_id, storage.checkpoints())
        ended = sum(trial.ended for trial in known.values())
        if ended >= trials:  # killed between its last trial and its result: a Ray would have nothing to do
            _tell_start(request, trials, len(known), ended)
            return
        gold_bytes = None if is_stored(start.gold) else start.gold.nbytes
        with ray_for(request, settings, gold_bytes) as slots:
            _tell_start(request, trials, len(known), ended)
            gold = share(start.gold, start.data, settings, readers=slots * request.trial_workers)
            plan = Plan(request, known, start.basis, start.trained, _workers(request, gold, settings))
            journal = Journal(plan, run)
            trainable = tune.with_resources(
                tune.with_parameters(Trial, gold=gold, plan=plan),
                _resources(request),
            )
            tuner = Tuner(
                trainable,
                tune_config=TuneConfig(
                    metric=None,
                    search_alg=make_searcher(request, known, slots),
                    scheduler=make_scheduler(request),
                    num_samples=trials,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: f"trial-{trial.config[NUMBER]:05d}",
                ),
                run_config=RunConfig(
                    storage_path=storage.path,
                    name=storage.next_try(),
                    callbacks=[journal, Progress(request, trials)],
                    checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
                    failure_config=FailureConfig(max_failures=LOST_MACHINES if settings.ray_address else 0),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            finally:
                failing = sys.exc_info()[0] is not None
                if failing:
                    journal.interrupt()
                try:
                    journal.finish()
                except Exception:
                    if not failing:
                        raise


def _workers(request: TuneRequest, gold: SharedGold, settings: Settings) -> TrialWorkers | None:
    """Return those of each trial; None: it trains in its own process."""
    if request.trial_workers == 1:
        return None
    each = Share(int(request.trial_cpus), int(request.trial_gpus))
    return TrialWorkers(request.trial_workers, each, gold, patience(settings))


def _resources(request: TuneRequest) -> PlacementGroupFactory:
    """Return what a trial needs: its cores and GPUs on one machine, and with HyperBand a slot of this stage.

    With several workers these are for each of them, and the trial's own process, which waits for them, needs none.
    Other schedulers leave `concurrent_trials` to the searcher. With HyperBand the searcher cannot limit them,
    because of the trials that are paused.
    """
    each = {"CPU": request.trial_cpus, "GPU": request.trial_gpus}
    trial = [each] if request.trial_workers == 1 else [{}, *[each] * request.trial_workers]
    counted = request.scheduler == "hyperband" and request.concurrent_trials is not None
    return PlacementGroupFactory([*trial, {SLOT: 1}] if counted else trial)


def remove_state(run: StageRun, settings: Settings) -> None:
    """Delete what a finished search kept for later tries."""
    with credentials(settings):
        SearchStorage(settings, run.run_id).remove()


def _tell_start(request: TuneRequest, trials: int, known: int, ended: int) -> None:
    log.info(
        "%d trials of up to %d epochs, searcher %s, scheduler %s, over %s",
        *(trials, request.max_epochs, request.searcher, request.scheduler, ", ".join(request.dimensions)),
    )
    if known:
        log.info("resuming an earlier try: %d trials are done, %d were running", ended, known - ended)

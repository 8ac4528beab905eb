"""One trial as Ray runs it, in a process of its own, one epoch per step.

The process is reused for many trials, because starting one takes seconds. The gold is read from Ray's object store,
which all trials on a machine share; gold that is larger than memory, shard by shard from the stage. A trial with
several workers trains in processes that this one starts, and ends when the trial does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.tune import Trainable
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from tasks.cluster.shared_gold import SharedGold
from tasks.contract.recipe import Basis, Recipe
from tasks.contract.training import TuneRequest
from tasks.distributed.training import DistributedTraining
from tasks.distributed.trial_workers import TrialWorkers
from tasks.errors import DataError, ModelError
from tasks.search import storage
from tasks.search.earlier_trial import EPOCH, NUMBER, REPLAYED, EarlierTrial
from tasks.vision.data.gold import Gold
from tasks.vision.devices import prepare_cpu
from tasks.vision.training import checkpoints
from tasks.vision.training.cadence import Cadence
from tasks.vision.training.events import BatchEnd, EpochEnd, Event
from tasks.vision.training.loop import Training

BATCHES = "batches"  # in a result: the logged batches of its epoch; in a checkpoint: those of all epochs, by epoch
FINISHED = "finished"  # in a result: whether nothing is left to train
POSITION = "position.json"  # in a checkpoint of a trial that is replaying: its epoch

Batch = tuple[int, float, float]
"""Step, loss, learning rate."""

log = logging.getLogger("tasks.tune")


@dataclass(frozen=True)
class Plan:
    """What all trials of a search need to know."""

    request: TuneRequest
    known: Mapping[int, EarlierTrial] = field(hash=False)
    basis: Basis
    trained: Mapping[str, Mapping[str, torch.Tensor]] = field(hash=False)  # weights to start from, by network
    workers: TrialWorkers | None = None  # of each trial; None: it trains in its own process


def recipe_of(plan: Plan, config: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a trial with the values that the searcher chose."""
    return plan.request.recipe(plan.basis, {name: value for name, value in config.items() if name != NUMBER})


def sha256_of(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe, which identifies it."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


class Trial(Trainable):
    """Trains one recipe, or replays what an earlier try of the search had trained and resumes from there."""

    _plan: Plan
    _gold: Gold
    _recipe: Recipe
    _cadence: Cadence
    _training: Training | None
    _events: Generator[Event, None, None] | None  # of the training, while it runs
    _known: tuple[EpochEnd, ...]
    _batches: dict[int, list[Batch]]  # of every epoch trained: MLflow may not have the last ones yet
    _before: EarlierTrial | None
    _epoch: int

    def setup(self, config: dict[str, Any], *, gold: SharedGold, plan: Plan) -> None:  # type: ignore[override]
        """Start the first trial of this process."""
        # The object store's memory is read-only, and nothing writes to it.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        self._gold = gold.open()
        self._plan, self._cadence = plan, Cadence()
        self._training = self._events = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in this process."""
        self._cadence.restart()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch, or replay it.

        Raises:
            RequestError: the loss is no longer a number.
            ModelError: the trial had failed in an earlier try.
        """
        before = self._before
        if self._epoch == len(self._known) and before is not None and before.state == "failed":
            raise ModelError(before.error)
        self._epoch += 1
        if self._epoch <= len(self._known):
            return self._replay(self._known[self._epoch - 1])
        if self._training is None:
            self._training = self._make()
        training = self._training
        batches = self._batches[self._epoch] = []
        if self._events is None:
            self._events = training.run()
        for event in self._events:
            match event:
                case BatchEnd():
                    batches.append((event.step, event.loss, event.learning_rate))
                case EpochEnd():
                    break
        if training.finished:
            self._pause()
        result = asdict(training.history[-1]) | {BATCHES: batches, REPLAYED: False}
        result[FINISHED] = result[DONE] = training.finished
        if not training.finished and self._cadence.due():
            result[SHOULD_CHECKPOINT] = True
        return result

    def _replay(self, end: EpochEnd) -> dict[str, Any]:
        ended = self._epoch == len(self._known) and self._before is not None and self._before.ended
        done = ended and self._before is not None and self._before.state != "failed"
        finished = done and self._before is not None and self._before.state == "finished"
        return asdict(end) | {BATCHES: self._batches.get(end.epoch, []), REPLAYED: True, FINISHED: finished, DONE: done}

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._pause()
        self._recipe = recipe_of(self._plan, config)
        self._training, self._known, self._batches, self._epoch = None, (), {}, 0
        self._before = self._plan.known.get(int(config[NUMBER]))
        if self._before is None:
            return
        self._known = self._before.history
        if not self._before.ended:
            self._training = self._resume(self._before)
            self._known = tuple(self._training.history) if self._training else ()

    def _resume(self, before: EarlierTrial) -> Training | None:
        """Return the training in the state of its newest good checkpoint; None when there is none."""
        for uri in before.checkpoints:
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
                folder = Path(name)
                try:
                    storage.download(uri, folder)
                    state = checkpoints.load_newest(folder)
                    if state is not None:
                        return self._load(self._make(), state)
                except (DataError, OSError) as error:  # half uploaded, or deleted since
                    log.warning("trial %d: %s; trying the checkpoint before it", before.number, error)
        return None

    def _pause(self) -> None:
        """Have the training do no more for now; the workers that it has are gone afterwards."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _load(self, training: Training, state: dict[str, Any]) -> Training:
        training.load_state_dict(state)
        self._batches = state.get(BATCHES, {})  # only of the state that was loaded
        return training

    def _make(self) -> Training:
        recipe, shape = self._recipe, self._gold.shape
        trained = self._plan.trained.get(recipe.model)
        if self._plan.workers is not None:
            if recipe.device == recipe.precision == "auto":
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of a GPU's memory is for the worker that has it
            return DistributedTraining(recipe, self._gold, trained, workers=self._plan.workers)
        cpus = max(1, math.floor(self._plan.request.trial_cpus))
        prepare_cpu(recipe.batch_size * shape[0] * (recipe.input_side or max(shape[1:])) ** 2, cpus)
        return Training(recipe, self._gold, trained)

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Save and upload a checkpoint, and measure what that costs."""
        with self._cadence.saving():
            return super().save(checkpoint_dir)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state; of a trial that is replaying, only its epoch."""
        if self._training is None or len(self._training.history) > self._epoch:
            (Path(checkpoint_dir) / POSITION).write_text(json.dumps({EPOCH: self._epoch}), encoding="utf-8")
        else:
            state = self._training.state_dict() | {BATCHES: self._batches}
            checkpoints.save(state, self._epoch, Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # a dict only if save returned one
        """Resume where this trial was paused.

        Raises:
            DataError: the checkpoint is damaged.
        """
        self._pause()
        position = Path(checkpoint) / POSITION
        if position.exists():
            self._epoch = int(json.loads(position.read_text(encoding="utf-8"))[EPOCH])
            return
        state = checkpoints.load_newest(Path(checkpoint))
        if state is None:
            raise DataError(f"the checkpoint of trial {self.trial_id} is damaged; it cannot be resumed")
        self._training = self._load(self._training or self._make(), state)
        self._epoch = len(self._training.history)

    def cleanup(self) -> None:
        """Free the memory, and end the workers."""
        self._pause()
        self._training = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

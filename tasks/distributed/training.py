"""A training whose batches run on workers: to its caller, the same as one in this process.

    stage: DistributedTraining  <-- events, states --  relay  <--  worker 0, which tells what all of them did
                                                              worker 1, 2, ...: shares of the same batches

Workers get what they need from the stage, by Ray. The stage alone talks to MLflow; nodes of a cluster need no password
for it. After epochs, and at every pause in one, the stage gets the whole state; so a worker that is lost costs the
batches since then.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from tasks.cluster.answer import answer
from tasks.cluster.gold_files import is_stored, share_stored
from tasks.cluster.room import Share
from tasks.cluster.session import beside_the_stage, ray_with
from tasks.cluster.stored_gold import StoredGold
from tasks.contract.recipe import Recipe
from tasks.contract.training import TrainRequest
from tasks.distributed.relay import Failed, Line, Relay, packed, unpacked
from tasks.distributed.room import require_workers
from tasks.distributed.worker import Job, train
from tasks.errors import UnavailableError
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.logged_training import QUIET_SECONDS
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.training.events import BatchEnd, EpochEnd, Event, Placed
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import require_enough

LOST_WORKERS = 3  # times that workers are started again in one try of the stage
PATIENCE_SECONDS = 1800  # of a worker with another; Ray's own default
STATES = 10  # networks that Ray's memory holds beside gold: two states, each with the best, an average and an optimiser

log = logging.getLogger("tasks.train")


@dataclass(frozen=True)
class Workers:
    """What a training on workers needs besides.

    Attributes:
        request: how many workers, and what each gets.
        data: the gold, for workers that read it from disk.
        settings: the cluster, if there is one, and what gold may take on a disk.
    """

    request: TrainRequest
    data: PreparedData
    settings: Settings


class DistributedTraining(Training):
    """One training on several workers. What it knows is what they told: every epoch, and now and then the state."""

    runs_here = False

    def __init__(
        self, recipe: Recipe, gold: Gold, trained: Mapping[str, Tensor] | None = None, *, workers: Workers, **other: Any
    ) -> None:
        """Take what `Training` takes; nothing is started yet.

        Raises:
            RequestError: there are more workers than images in a batch allow; and what `Training` raises.
        """
        super().__init__(recipe, gold, trained, **other)
        smallest = len(gold.train) // self.steps_per_epoch
        require_enough(workers.request.workers, smallest, len(gold.validation), self.micro_batches)
        self._workers, self._gold, self._trained = workers, gold, trained
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the newest state that the workers told."""
        return super().state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the workers go on from `state`."""
        super().load_state_dict(state)
        self._state = state

    def run(self) -> Iterator[Event]:
        """Train until finished.

        Raises:
            RequestError: the loss is no longer a number, or the workers do not fit on the machines there are.
            UnavailableError: no Ray answers, or workers were lost too often.
        """
        if self.finished:
            return
        request, settings = self._workers.request, self._workers.settings
        require = partial(require_workers, request=request)
        with ExitStack() as stack:
            nbytes = STATES * sum(tensor.nbytes for tensor in self.network.state_dict().values())
            nbytes += 0 if is_stored(self._gold) else self._gold.nbytes
            share = stack.enter_context(ray_with(require, 2, settings, nbytes))
            relay = beside_the_stage(Relay).remote(None if self._state is None else packed(self._state))
            fit = _Fit(self._trainer(share, relay, stack))
            yield from self._told(relay, fit)

    def _told(self, relay: Any, fit: _Fit) -> Iterator[Event]:
        """Yield what the workers tell, once each, after taking over the state that came with it."""
        last, spoke = self.steps_done, time.monotonic()
        placed = False
        while not self.finished:
            message = answer(relay.next.remote(1.0))
            if message is None:
                fit.require_running()
                if not placed and time.monotonic() - spoke > QUIET_SECONDS:
                    spoke = time.monotonic()
                    log.info("waiting for %d workers", self._workers.request.workers)
                continue
            event, state = message
            known = len(self.history)
            if state is not None:
                self._take_over(unpacked(state))
            match event:
                case Placed():
                    if placed:
                        log.warning("a worker was lost; going on after batch %d", self.steps_done)
                    placed = True
                    yield event
                case Failed():
                    raise event.error
                case Line():
                    log.warning(event.text)
                case BatchEnd() if event.step <= last:
                    pass  # told before a worker was lost
                case BatchEnd():
                    last = event.step
                    yield event
                case EpochEnd() if event.epoch <= known:
                    pass  # likewise
                case EpochEnd():
                    if state is None:
                        self.history.append(event)
                        self._epochs.position = None
                    yield self.history[-1]
                case _:
                    yield event

    def _take_over(self, state: dict[str, Any]) -> None:
        """Keep the newest state; epochs that were told before a worker was lost stay told."""
        told = self.history
        self.load_state_dict(state)
        if len(told) > len(self.history):
            self.history, self._epochs.position = told, None

    def _trainer(self, share: Share, relay: Any, stack: ExitStack) -> TorchTrainer:
        request, settings = self._workers.request, self._workers.settings
        gold: ray.ObjectRef[Gold] | StoredGold
        if is_stored(self._gold):
            gold = share_stored(self._workers.data, settings, request.workers, partial(_say, relay))
        else:
            gold = ray.put(self._gold)
        job = Job(
            self.recipe,
            gold,
            None if self._trained is None else ray.put(dict(self._trained)),
            share,
            request.sync_batch_norm,
            self.micro_batches,
            relay,
        )
        # Ray wants a folder, and puts nothing there that is needed.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-train-"))
        resources = {"CPU": float(share.cpus)} | ({"GPU": float(share.gpus)} if share.gpus else {})
        return TorchTrainer(
            train,
            train_loop_config={"job": job},
            # One that waits for images keeps the others waiting for its gradients.
            torch_config=TorchConfig(timeout_s=PATIENCE_SECONDS + settings.pipeline_store_wait_seconds),
            scaling_config=ScalingConfig(
                num_workers=request.workers, use_gpu=share.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="train", storage_path=folder, failure_config=FailureConfig(max_failures=LOST_WORKERS)
            ),
        )


class _Fit:
    """Ray's trainer at work, in a thread: it returns when the workers are done, or were lost too often."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray-train", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised where the stage waits
            self._error = error

    def require_running(self) -> None:
        """Raise what ended the trainer, if it has ended.

        Raises:
            UnavailableError: workers were lost too often.
        """
        if self._thread.is_alive():
            return
        error = self._error
        if isinstance(error, WorkerGroupError):
            causes = list(error.worker_failures.values())
            if all(isinstance(cause, RayActorError) for cause in causes):
                raise UnavailableError(
                    f"workers of the training were lost {LOST_WORKERS + 1} times, the last time because: "
                    f"{' '.join(str(causes[0]).split())[:300]}; where it was memory, lower batch_size or give them more"
                ) from error
        if isinstance(error, TrainingFailedError):
            raise RuntimeError(f"Ray's trainer ended: {error}") from error
        raise RuntimeError("Ray's trainer ended before the training did") from error


def _say(relay: Any, text: str) -> None:
    """Have the stage log a line."""
    relay.tell.remote(Line(text))

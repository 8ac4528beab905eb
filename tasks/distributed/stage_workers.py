"""Workers of a stage: Ray Train starts them, on a Ray of the stage's own or a cluster, and again when one is lost."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from tasks.cluster.gold_files import is_stored, share
from tasks.cluster.session import beside_the_stage, ray_with
from tasks.contract.training import TrainRequest
from tasks.distributed.relay import Line, Relay
from tasks.distributed.room import require_workers
from tasks.distributed.worker import Job, train_by_ray
from tasks.distributed.workers import Running, Work, patience
from tasks.errors import UnavailableError
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.settings import Settings

LOST_WORKERS = 3  # times that workers are started again in one try of the stage
STATES = 10  # networks that Ray's memory holds beside gold: two states, each with the best, an average and an optimiser
STATE_SECONDS = 10.0


@dataclass(frozen=True)
class StageWorkers:
    """The workers that a stage starts.

    Attributes:
        request: how many workers, and what each gets.
        data: the gold, for workers that read it from disk.
        settings: the cluster, if there is one, and what gold may take on a disk.
    """

    request: TrainRequest
    data: PreparedData
    settings: Settings
    field = "workers"

    @property
    def count(self) -> int:
        """How many there are."""
        return self.request.workers

    @contextmanager
    def started(self, work: Work) -> Iterator[Running]:
        """Start or join a Ray, and workers on it; see `Workers`."""
        require = partial(require_workers, request=self.request)
        nbytes = STATES * work.network_bytes + (0 if is_stored(work.gold) else work.gold.nbytes)
        with (
            ray_with(require, 2, self.settings, nbytes) as share_of_each,
            # Ray wants a folder, and puts nothing there that is needed.
            tempfile.TemporaryDirectory(prefix="ray-train-") as folder,
        ):
            relay = beside_the_stage(Relay).remote(work.state)
            job = Job(
                work.recipe,
                share(work.gold, self.data, self.settings, self.count, partial(_say, relay)),
                None if work.trained is None else ray.put(dict(work.trained)),
                share_of_each,
                self.request.sync_batch_norm,
                work.micro_batches,
                relay,
                STATE_SECONDS,
            )
            yield _Fit(self._trainer(job, folder), relay)

    def _trainer(self, job: Job, folder: str) -> TorchTrainer:
        share_of_each = job.share
        resources = {"CPU": float(share_of_each.cpus)}
        resources |= {"GPU": float(share_of_each.gpus)} if share_of_each.gpus else {}
        return TorchTrainer(
            train_by_ray,
            train_loop_config={"job": job},
            torch_config=TorchConfig(timeout_s=patience(self.settings)),
            scaling_config=ScalingConfig(
                num_workers=self.count, use_gpu=share_of_each.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="train", storage_path=folder, failure_config=FailureConfig(max_failures=LOST_WORKERS)
            ),
        )


class _Fit:
    """Ray's trainer at work, in a thread: it returns when the workers are done, or were lost too often."""

    def __init__(self, trainer: TorchTrainer, relay: Any) -> None:
        self.relay = relay
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

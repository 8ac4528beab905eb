"""What each worker runs: the loop of `tasks.vision.training`, on its share of every batch."""

from __future__ import annotations

import math
import os
import socket
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor, distributed

from tasks.cluster.answer import answer
from tasks.cluster.room import Share
from tasks.cluster.shared_gold import SharedGold
from tasks.contract.recipe import Recipe
from tasks.distributed.relay import Failed, packed, unpacked
from tasks.errors import PipelineError
from tasks.vision.devices import prepare_cpu
from tasks.vision.training.events import EpochEnd, Pause, Placed
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import Replicas


@dataclass(frozen=True)
class Job:
    """What all workers of a training are told.

    Attributes:
        recipe: what to do.
        gold: the images.
        trained: weights to start from, by name; None: random ones.
        share: what each worker has for itself.
        sync_batch_norm: see `Replicas`.
        micro_batches: see `Training`.
        relay: actor `Relay`.
        state_seconds: after an epoch the state is told, which is as large as several networks, if the last one is as
            old as that; at a pause, and at the end, it always is.
    """

    recipe: Recipe
    gold: SharedGold
    trained: ray.ObjectRef[Mapping[str, Tensor]] | None
    share: Share
    sync_batch_norm: bool
    micro_batches: int
    relay: Any
    state_seconds: float


def train_by_ray(config: Mapping[str, Job]) -> None:
    """Train in a worker of Ray Train, which starts it again, with all others, where an error is raised."""
    train(config["job"])


def train(job: Job) -> None:
    """Train to the end, from the newest state, in a process in which torch's process group is set up.

    An error that another try would find too is told. Others are raised.
    """
    try:
        _train(job)
    except PipelineError as error:
        answer(job.relay.tell.remote(Failed(error)))


def _train(job: Job) -> None:
    if not job.share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Ray's memory is read-only, and nothing writes to it.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
    recipe, replicas = job.recipe, Replicas.joined(sync_batch_norm=job.sync_batch_norm)
    gold = job.gold.open()
    side = recipe.input_side or max(gold.shape[1:])
    prepare_cpu(recipe.batch_size // replicas.size * gold.shape[0] * side**2, job.share.cpus)
    trained = None if job.trained is None else ray.get(job.trained)
    training = Training(recipe, gold, trained, replicas=replicas, micro_batches=job.micro_batches)
    state = answer(job.relay.newest.remote())
    if state is not None:
        training.load_state_dict(unpacked(state))
    machines: list[str] = [""] * replicas.size
    distributed.all_gather_object(machines, socket.gethostname())  # after it, all of them have read the same state
    first = replicas.rank == 0
    if first:
        precision = str(training.precision).removeprefix("torch.")
        placed = Placed(tuple(machines), training.device.type, precision, torch.get_num_threads())
        answer(job.relay.tell.remote(placed))
    told = -math.inf
    for event in training.run():
        if not first:
            continue
        due = training.finished or time.monotonic() - told >= job.state_seconds
        if isinstance(event, Pause) or (isinstance(event, EpochEnd) and due):
            answer(job.relay.tell.remote(event, packed(training.state_dict())))
            told = time.monotonic()
        else:
            answer(job.relay.tell.remote(event))

"""The sides of `benchmarks.scale`: each trains all epochs of a recipe, on the CPU, in the process that calls it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ray
import torch

from benchmarks import scale_script
from tasks.cluster.session import ray_with
from tasks.contract.messages import TaskIdentity
from tasks.contract.recipe import Recipe
from tasks.contract.training import TrainRequest
from tasks.distributed.stage_workers import StageWorkers
from tasks.distributed.training import DistributedTraining
from tasks.settings import Settings, load_settings
from tasks.vision.data.gold import Gold
from tasks.vision.devices import prepare_cpu
from tasks.vision.models.build import build
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training

WORKERS = 2


class Trained(NamedTuple):
    """What a training was like: values of each epoch."""

    rates: list[float]
    """Images per second."""
    losses: list[float]
    """Train loss, as the loop states it; empty for the script."""


def one_worker(recipe: Recipe, gold: Gold, threads: int = 1) -> Trained:
    """Train as the train stage does; nothing is started besides."""
    side = recipe.input_side or gold.shape[1]
    prepare_cpu(recipe.batch_size * gold.shape[0] * side**2)
    torch.set_num_threads(threads)
    return _trained(Training(recipe, gold))


def two_workers(recipe: Recipe, gold: Gold, sync_batch_norm: bool = False) -> Trained:
    """Train as the train stage does with `workers=2`, of one thread each, on a Ray of its own."""
    request = TrainRequest(
        task=TaskIdentity(dag_id="benchmark", dag_run_id="scale", task_id="train"),
        prepare_run_id="0" * 32,
        device="cpu",
        workers=WORKERS,
        worker_cpus=1,
        worker_gpus=0,
        sync_batch_norm=sync_batch_norm,
    )
    return _trained(DistributedTraining(recipe, gold, workers=StageWorkers(request, None, _this_machine())))


def ray_train_script(recipe: Recipe, gold: Gold) -> Trained:
    """Train with `scale_script`, on a Ray that is started as for the train stage."""
    side = recipe.input_side or gold.shape[1]
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        ray_with(lambda nodes, address: None, 1, _this_machine(), gold.nbytes),
    ):
        images = gold.train.images[:].transpose(0, 2, 3, 1).copy()
        config = {
            "make_network": partial(build, recipe.model, len(gold.classes), (gold.shape[0], side, side)),
            "photos": ray.put((images, gold.train.labels)),
            "change": {"side": side, "mean": gold.mean, "std": gold.std},
            "sgd": {
                "lr": recipe.learning_rate,
                "momentum": recipe.momentum,
                "weight_decay": recipe.weight_decay,
                "nesterov": True,
            },
            "batch_size": recipe.batch_size,
            "epochs": recipe.epochs,
        }
        return Trained(scale_script.fit(config, WORKERS, Path(folder)), [])


def _trained(training: Training) -> Trained:
    ends = [event for event in training.run() if isinstance(event, EpochEnd)]
    return Trained([end.images_per_second for end in ends], [end.train_loss for end in ends])


def _this_machine() -> Settings:
    """Return the settings without a cluster that the environment may name."""
    return load_settings().model_copy(update={"ray_address": None})

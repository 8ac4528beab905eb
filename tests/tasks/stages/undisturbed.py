"""Trainings that nothing disturbs, made once: tests look at them, or compare theirs with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch

from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TrainRequest, TrainResult
from tasks.records import gold_store, tracking, tuned_sets
from tasks.records.inputs.training import TrainInputs
from tasks.settings import Settings
from tasks.stages import train
from tasks.vision.data.gold import Gold
from tests.tasks.conftest import read_operators_once

EPOCHS = 5  # of four batches: the fewest of which the time is estimated
GRADUAL: dict[str, Any] = {"finetune": "gradual", "model": "fast_cnn", "learning_rate": 1e-4, "epochs": 2}


@dataclass(frozen=True)
class Trained:
    """A store in which two trainings ended.

    Attributes:
        home: its folder.
        prepare_run_id: run of the gold.
        first: of the DAG run `first`, of five epochs.
        messages: what it said.
        gradual: of the DAG run `gradual`, by `GRADUAL`.
    """

    home: Path
    prepare_run_id: str
    first: TrainResult
    messages: list[str]
    gradual: TrainResult


def call(prepare_run_id: str, settings: Settings, dag_run_id: str, **changes: object) -> TrainResult:
    """Call the stage, each time in a new process's state, in the run of a DAG run."""
    torch.rand(3)
    task = TaskIdentity(dag_id="daily", dag_run_id=dag_run_id, task_id="train")
    base = {"task": task, "prepare_run_id": prepare_run_id, "epochs": EPOCHS, "batch_size": 50, "log_every": 3}
    request = TrainRequest.model_validate(base | {"device": "cpu"} | changes)
    with tracking.stage_run(request, "train", settings) as run:
        return train.run(request, TrainInputs.resolve(request, run), run, settings)


def train_undisturbed(home: Path, gold: Gold, weights: str) -> Trained:
    """Train twice in the store that the environment names, in `home`; once from a file of weights."""
    settings, messages = Settings(), list[str]()
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as prepare:
        gold_store.store(gold)
        mlflow.set_tags({gold_store.GOLD_RUN: prepare.info.run_id, tuned_sets.DATASET: gold.dataset})
    with saying(messages):
        first = call(prepare.info.run_id, settings, "first")
    read_operators_once()
    gradual = call(prepare.info.run_id, settings, "gradual", weights=weights, **GRADUAL)
    return Trained(home, prepare.info.run_id, first, messages, gradual)


@contextmanager
def saying(messages: list[str]) -> Iterator[None]:
    """Collect what the program logs while the block runs."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger("tasks"), Collector(logging.INFO)
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(collector)

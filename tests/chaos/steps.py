"""The pipeline under test: two days, a refused candidate, a rollback, a cleaning and a deploy that fails, step by step.

Each step is one task of a DAG: its request is made from the results of earlier steps, as the DAG makes it. A step
begins where the step named in `after` ended, so that the pipeline is a tree and every step can be repeated alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
DAG = "chaos"
MODEL = "chaos-digits"
# Measurements on a busy machine must not decide the verdict.
GATE = {"max_slowdown": 1000.0, "max_memory_growth": 1000.0, "max_calibration_error": 1.0, "min_accuracy": 0.1}
GATE |= {"min_macro_f1": 0.0}


@dataclass(frozen=True)
class Step:
    """One stage in one DAG run, and what is tried on it."""

    name: str
    """Task ID and DAG run."""
    stage: str
    after: str | None
    fields: Callable[[Results], dict[str, Any]] = field(default=lambda results: {}, repr=False)
    only: tuple[str, ...] | None = None
    """Functions whose points are tried, or single points of theirs (`set_tag#4`); None: every point; empty: none,
    because the step only serves later ones."""
    varies: str = ""
    """A function whose number of calls depends on timing by one; its last point is not tried."""
    exit_code: int = 0
    elsewhere: bool = False
    """Whether SERVING_URL leads to another program."""
    service: int | None = None
    """Version in service when the step begins; None: no service runs."""
    days_later: int = 0
    """By how many days the clock of the stage is ahead."""
    never_ended: str = ""
    """A step before, whose run is unfinished when this one begins."""

    def request(self, results: Results) -> str:
        """The request as JSON; the same for every try."""
        task_id, _, dag_run_id = self.name.partition("-")
        task = {"dag_id": DAG, "dag_run_id": dag_run_id, "task_id": task_id}
        return json.dumps({"task": task, **self.fields(results)})


def _run(step: str, name: str) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {name: results[step]["run_id"]}


def _train(prepare: str, **recipe: Any) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {"prepare_run_id": results[prepare]["run_id"], "registered_model": MODEL, **recipe}


def _evaluate(train: str) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {"train_run_id": results[train]["run_id"], "registered_model": MODEL, **GATE}


def _register(evaluate: str) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {
        "evaluate_run_id": results[evaluate]["run_id"],
        "approval": {},
        "registered_model": MODEL,
    }


def _deploy(step: str) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {"version": results[step]["version"], "registered_model": MODEL, "deploy_timeout": 120}


def _prepare(results: Results) -> dict[str, Any]:
    return {"dataset": "digits", "registered_model": MODEL}


def _split(seed: int) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {**_prepare(results), "data_seed": seed}


def _rollback(results: Results) -> dict[str, Any]:
    return {"registered_model": MODEL, "reason": "sees sevens everywhere"}


def _compress(train: str, **fields: Any) -> Callable[[Results], dict[str, Any]]:
    return lambda results: {"trained_by": results[train]["run_id"], "registered_model": MODEL, **fields}


LESSON = {"method": "distill", "student": "mobilenet_v3_small", "compression_epochs": 2}
PRUNING = {"method": "prune", "pruning_ratio": 0.3, "calibration_images": 50, "compression_epochs": 2}


WORKERS = {"workers": 2, "worker_cpus": 1, "device": "cpu", "epochs": 2, "log_every": 5}


def _tune(results: Results) -> dict[str, Any]:
    return {
        "prepare_run_id": results["prepare-day1"]["run_id"],
        **{"trials": 2, "epochs": 2, "searcher": "random", "scheduler": "none", "log_every": 5},
        "search_space": {"model": None},
        "concurrent_trials": 1,  # or the order of the writes would differ between tries
    }


STEPS: tuple[Step, ...] = (
    Step("prepare-day1", "prepare", None, _prepare),
    Step("tune-week1", "tune", "prepare-day1", _tune, varies="log_batch"),  # a checkpoint more or less
    Step("train-day1", "train", "prepare-day1", _train("prepare-day1", epochs=1, learning_rate=0.005), only=()),
    Step("evaluate-day1", "evaluate", "train-day1", _evaluate("train-day1"), only=()),
    Step("register-day1", "register", "evaluate-day1", _register("evaluate-day1")),
    Step("deploy-day1", "deploy", "register-day1", _deploy("register-day1"), only=("start", "refresh")),
    Step("prepare-day2", "prepare", "register-day1", _prepare),
    Step("train-day2", "train", "prepare-day2", _train("prepare-day2", epochs=3, log_every=5)),
    Step("evaluate-day2", "evaluate", "train-day2", _evaluate("train-day2")),
    Step("register-day2", "register", "evaluate-day2", _register("evaluate-day2")),
    Step("deploy-day2", "deploy", "register-day2", _deploy("register-day2"), service=1),
    # On two workers of a Ray of its own: where they are, and the checkpoint that came from them. It takes ten times as
    # long as the others, so what every training writes is not tried again.
    Step(
        "train-workers",
        "train",
        "prepare-day1",
        _train("prepare-day1", **WORKERS),
        only=("log_batch#7", "log_artifact#2"),
    ),
    # The second day again, in another DAG run: train reuses the earlier result, evaluate judges the champion itself.
    Step("train-again", "train", "register-day2", _train("prepare-day2", epochs=3, log_every=5)),
    Step("evaluate-again", "evaluate", "train-again", _evaluate("train-again")),
    # The candidate of the first day, judged again beside the better champion: refused.
    Step("evaluate-day3", "evaluate", "register-day2", _evaluate("train-day1"), only=()),
    Step("register-day3", "register", "evaluate-day3", _register("evaluate-day3")),
    # The new champion, compressed in the same DAG run: made, judged beside itself, registered.
    Step("compression.compress-day2", "compress", "register-day2", _compress("train-day2", calibration_images=50)),
    Step(
        "compression.evaluate-day2",
        "evaluate",
        "compression.compress-day2",
        _evaluate("compression.compress-day2"),
        only=(),
    ),
    Step(
        "compression.register-day2",
        "register",
        "compression.evaluate-day2",
        _register("compression.evaluate-day2"),
        only=(),
    ),
    # The same by a training: a student of another network.
    Step("compress-week2", "compress", "register-day2", _compress("train-day2", **LESSON)),
    # And with fewer channels: the weights are kept before they are trained on.
    Step("compress-week3", "compress", "register-day2", _compress("train-day2", **PRUNING)),
    Step("rollback-undo", "rollback", "register-day2", _rollback),
    Step("deploy-undo", "deploy", "rollback-undo", _deploy("rollback-undo"), service=2),
    # A hundred days later nobody needs a gold, the checkpoints of two trainings and the weights of a refused candidate.
    Step("prepare-left", "prepare", "register-day1", _split(1), only=()),
    Step("prepare-newer", "prepare", "prepare-left", _split(2), only=()),
    Step("train-left", "train", "prepare-newer", _train("prepare-day1", epochs=1, learning_rate=1e-5), only=()),
    Step("evaluate-left", "evaluate", "train-left", _evaluate("train-left"), only=()),
    Step("register-left", "register", "evaluate-left", _register("evaluate-left"), only=()),
    # Another one is the newest candidate meanwhile, which keeps its weights.
    Step("evaluate-newest", "evaluate", "register-left", _evaluate("train-day1"), only=()),
    Step("register-newest", "register", "evaluate-newest", _register("evaluate-newest"), only=()),
    Step("clean-week4", "clean", "register-newest", days_later=100, never_ended="prepare-newer"),
    # Another program answers at the service's address: the promotion is undone, and the stage ends with 76.
    Step("deploy-wrong", "deploy", "register-day2", _deploy("register-day2"), exit_code=76, elsewhere=True),
)


def needed(stages: Collection[str]) -> list[Step]:
    """The steps of these stages, and those that they begin after, in order."""
    names = {step.name for step in STEPS if step.stage in stages}
    for step in reversed(STEPS):
        if step.name in names and step.after is not None:
            names.add(step.after)
    return [step for step in STEPS if step.name in names]

"""What a search costs and what it gains: `make bench-tuning SOURCE=cifar10.tar.gz`, or one part of it by `ARGS=cost`.

    cost     the tune stage on digits compared with the bare training loop: the same recipes, trained one by one in this
             process, with as many threads. Two figures for the stage: its trials, including MLflow, checkpoints and
             Ray's messages; and the whole stage, including Ray's start and shutdown and the plots.
    asha     ASHA compared with random search on CIFAR-10 images: both draw their trials from the same space, over five
             seeds. How many epochs does each train, and how good is the best model that it finds?
    gain     hyperparameters found by a search on CIFAR-10 images compared with the defaults: the same training, over
             five seeds, scored on validation images and on test images, which no search sees. The gap, its interval.

Each part runs both of its sides itself, so that the ratios do not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from mlflow import MlflowClient
from numpy.typing import NDArray

from benchmarks.image_files import class_folders
from benchmarks.machine import cpu_model
from tasks.contract.recipe import Recipe
from tasks.contract.training import TuneRequest, TuneResult
from tasks.records import gold_store
from tasks.runner.stage_process import execute
from tasks.search import table
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Split
from tasks.vision.devices import prepare_cpu
from tasks.vision.evaluation.comparison import compare
from tasks.vision.evaluation.scoring import predict
from tasks.vision.models.classifier import forward_of
from tasks.vision.training.basis import basis_of
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training

SEEDS = range(5)
LEVEL = 0.025  # of each side of an interval
SIDE = 16  # pixels: a quarter of the work, or these two parts would take hours on two cores
CONVERGED = 18  # epochs of a whole trial in `asha`


def main() -> None:
    """Measure the parts asked for and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=["cost", "asha", "gain", []], help="default: all three")
    parser.add_argument("--source", type=Path, help="CIFAR-10 as .tar.gz with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file")
    options = parser.parse_args()
    parts = options.part or ["cost", "asha", "gain"]
    if options.source is None and set(parts) & {"asha", "gain"}:
        parser.error("--source is needed for asha and gain: CIFAR-10 as .tar.gz")
    logging.getLogger("tasks").setLevel(logging.WARNING)
    measures: dict[str, Callable[[Path | None], list[str]]] = {"cost": cost, "asha": asha, "gain": gain}
    lines = [
        "# Tuning",
        "",
        "Written by `make bench-tuning SOURCE=... ARGS='--write docs/benchmarks/tuning.md'`; the top of",
        "`benchmarks/tuning.py` describes each side.",
        "",
    ]
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="tuning-", ignore_cleanup_errors=True) as home:
            os.environ |= {"PIPELINE_HOME": home, "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
            lines += [*measures[part](options.source), ""]
    lines.append(f"{available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end.")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


def cost(_: Path | None) -> list[str]:
    """Compare the wall clock of 40 whole trials in the stage with the same trainings in a bare loop."""
    prepare_run_id = prepare({"dataset": "digits"})
    values = {"trials": 40, "searcher": "random", "scheduler": "none", "concurrent_trials": 1, "log_every": 0}
    started = time.perf_counter()
    result, request = tune(prepare_run_id, "cost", values)
    stage = time.perf_counter() - started
    rows = table.read(result.run_id)
    infos = [MlflowClient().get_run(row.run_id).info for row in rows]
    trials = (max(info.end_time for info in infos) - min(info.start_time for info in infos)) / 1000
    gold = gold_store.fetch(prepare_run_id)
    recipes = [request.recipe(basis_of(gold, (), gpu=False), row.values) for row in rows]
    started = time.perf_counter()
    for recipe in recipes:
        train(recipe, gold)
    bare = time.perf_counter() - started
    return [
        "## Overhead of a trial",
        "",
        f"{len(recipes)} trials of {request.epochs} epochs of `{request.model}` on digits, one at a time, one thread:",
        "",
        "| | seconds | seconds per trial | overhead |",
        "|---|---|---|---|",
        f"| bare loop | {bare:.1f} | {bare / len(recipes):.2f} | |",
        f"| trials, from the first one's start to the last one's end | {trials:.1f} "
        f"| {trials / len(recipes):.2f} | {trials / bare - 1:+.1%} |",
        f"| the whole tune stage: {stage - trials:.0f} s more, for any number of trials | {stage:.1f} | "
        f"{stage / len(recipes):.2f} | {stage / bare - 1:+.1%} |",
        "",
        "Target: at most +15 % per trial.",
    ]


def asha(source: Path | None) -> list[str]:
    """Compare best accuracy and epochs of ASHA with those of random search, over seeds."""
    assert source is not None  # noqa: S101  # main asks for it
    prepare_run_id = prepare(subset(source, train=120, test=10) | {"image_size": SIDE, "validation_fraction": 0.5})
    same = {"searcher": "random", "epochs": CONVERGED, "log_every": 0}
    rows = []
    for seed in SEEDS:
        plain, _ = tune(prepare_run_id, f"random-{seed}", same | {"scheduler": "none", "trials": 16, "seed": seed})
        halved, _ = tune(
            prepare_run_id, f"asha-{seed}", same | {"scheduler": "asha", "grace_epochs": 1, "trials": 24, "seed": seed}
        )
        until = epochs_until(halved.run_id, plain.best_value)
        rows.append((seed, plain.best_value, plain.epochs, halved.best_value, halved.epochs, until))
        print("random: best, epochs; ASHA: best, epochs, until random's best:", *rows[-1][1:], file=sys.stderr)
    gap = statistics.mean(row[3] - row[1] for row in rows)
    reached = [row[5] / row[2] for row in rows if row[5] is not None]
    return [
        "## ASHA compared with random search",
        "",
        f"CIFAR-10 at {SIDE}x{SIDE}, 60 images of each class for training and as many for validation, `fast_cnn`,",
        f"{CONVERGED} epochs; random search trains 16 settings to the end, ASHA starts 24 and stops most of them.",
        "Best validation accuracy and epochs trained:",
        "",
        "| seed | random: best | epochs | ASHA: best | epochs | epochs until random's best "
        "| share of random's epochs |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {s} | {a:.2%} | {n} | {b:.2%} | {m} | {u or 'never'} | {f'{u / n:.2f}' if u else ''} |"
            for s, a, n, b, m, u in rows
        ),
        "",
        f"ASHA reached random search's best in {len(reached)} of {len(rows)} searches, with "
        f"{statistics.mean(reached or [math.nan]):.2f} of its epochs on average.",
        f"It ended {100 * gap:+.2f} points from it with {statistics.mean(row[4] / row[2] for row in rows):.2f} "
        "of the epochs. Target: as good, with at most a third.",
    ]


def epochs_until(tune_run_id: str, accuracy: float) -> int | None:
    """Count the epochs that all trials of a search had trained when one of them reached an accuracy; None: none did."""
    client = MlflowClient()
    points = [
        (point.timestamp, point.value)
        for row in table.read(tune_run_id)
        for point in client.get_metric_history(row.run_id, "validation_accuracy")
    ]
    values = [value for _, value in sorted(points)]
    return next((number for number, value in enumerate(values, 1) if value >= accuracy), None)


def gain(source: Path | None) -> list[str]:
    """Compare tuned hyperparameters with the defaults on validation and test images, over seeds."""
    assert source is not None  # noqa: S101  # main asks for it
    prepare_run_id = prepare(subset(source, train=300, test=500) | {"image_size": SIDE, "validation_fraction": 0.4})
    result, request = tune(prepare_run_id, "gain", {"trials": 40, "epochs": 12, "log_every": 0})
    gold = gold_store.fetch(prepare_run_id)
    right: dict[tuple[str, str], list[NDArray[np.bool_]]] = {}
    for seed in SEEDS:
        for side, chosen in (("default", None), ("tuned", result.hyperparameters)):
            recipe = request.recipe(basis_of(gold, (), gpu=False), chosen).model_copy(update={"seed": 100 + seed})
            classifier = train(recipe, gold).best_classifier()
            for name, split in (("validation", gold.validation), ("test", gold.test)):
                answers = predict(forward_of(classifier), split.images, gold.shape).argmax(1)
                right.setdefault((name, side), []).append(answers == split.labels)
    lines = [
        "## Gain from tuned hyperparameters",
        "",
        f"CIFAR-10 at {SIDE}x{SIDE}, {len(gold.train)} training images, `{request.model}`, {request.epochs} epochs;",
        f"the search tried {request.trials} settings with {request.searcher} and {request.scheduler}, "
        f"{result.epochs} epochs in all.",
        f"Then both settings were trained with {len(SEEDS)} other seeds.",
        "",
        f"Defaults: `{Recipe().model_dump_json(include=set(result.hyperparameters.model_dump()))}`",
        "",
        f"Tuned: `{json.dumps(rounded(result.hyperparameters.model_dump()))}`",
        "",
        "| split | images | default: mean accuracy | tuned | gap | 95 % interval, over seeds | over images, one pair |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, split in (("validation", gold.validation), ("test", gold.test)):
        lines.append(gap_row(name, split, right[name, "default"], right[name, "tuned"]))
    return [*lines, "", "Target: both intervals above zero on both splits."]


def gap_row(name: str, split: Split, default: list[NDArray[np.bool_]], tuned: list[NDArray[np.bool_]]) -> str:
    """Make a row of the table: Student's interval over seeds, the gate's paired bootstrap of the first pair."""
    gaps = [float(t.mean() - d.mean()) for d, t in zip(default, tuned, strict=True)]
    mean = statistics.mean(gaps)
    reach = scipy.stats.t.ppf(1 - LEVEL, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    one = compare(tuned[0], default[0], LEVEL, number=1)
    ends = ((mean - reach, mean + reach), (one.low, one.high))
    intervals = [f"{100 * low:+.2f} to {100 * high:+.2f}" for low, high in ends]
    means = [f"{np.mean(side):.2%}" for side in (default, tuned)]
    return f"| {' | '.join([name, str(len(split)), *means, f'{100 * mean:+.2f}', *intervals])} |"


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Round numbers to three significant digits."""
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}


def train(recipe: Recipe, gold: Gold) -> Training:
    """Train in the bare loop, without logging, on one thread."""
    prepare_cpu(0)
    training = Training(recipe, gold)
    for event in training.run():
        assert isinstance(event, EpochEnd)  # noqa: S101  # log_every=0 asks for nothing else
    return training


def prepare(values: dict[str, Any]) -> str:
    """Run the prepare stage; return its run ID."""
    return execute("prepare", json.dumps({"task": identity("prepare", "prepare"), **values})).run_id


def tune(prepare_run_id: str, name: str, values: dict[str, Any]) -> tuple[TuneResult, TuneRequest]:
    """Run the tune stage; return its result, and the request with the defaults filled in."""
    request = TuneRequest.model_validate(
        {"task": identity("tune", name), "prepare_run_id": prepare_run_id, "device": "cpu", "model": "fast_cnn"}
        | values
    )
    result = execute("tune", request.model_dump_json())
    assert isinstance(result, TuneResult)  # noqa: S101  # the runner has checked it
    return result, request


def identity(stage: str, name: str) -> dict[str, str]:
    """Name the task that a stage runs for."""
    return {"dag_id": "benchmark", "dag_run_id": name, "task_id": stage}


def subset(source: Path, train: int, test: int) -> dict[str, Any]:
    """Unpack `train` and `test` images of each class; return the request's values that name them."""
    folder = Path(os.environ["PIPELINE_HOME"]) / "images"
    class_folders(source, folder, {"train": train, "test": test})
    return {"dataset": "image_folder", "source": str(folder)}


if __name__ == "__main__":
    main()

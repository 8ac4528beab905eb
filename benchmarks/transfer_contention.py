"""How much of its rate a training keeps beside another process: several runs at once on one host are normal."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import torch

from benchmarks.image_files import class_folders
from benchmarks.training_throughput import ours, plain, read_gold
from benchmarks.transfer_accuracy import scaled
from benchmarks.turns import apart, say
from tasks.contract.recipe import Recipe
from tasks.vision.cpus import available_cpus
from tasks.vision.devices import prepare_cpu

EACH = 500  # images of each class
Rates = dict[str, list[float]]  # images per second of each side, one of each round


def contention(source: Path, work: Path, images: int, rounds: int) -> list[str]:
    """Measure training alone and beside a process that keeps one core busy; return the section's lines."""
    folder = class_folders(source, work / "small", {"train": scaled(EACH, images)}) / "train"
    recipe = Recipe(
        model="mobilenet_v3_small",
        batch_size=128,
        learning_rate=0.02,
        epochs=2,
        device="cpu",
        precision="fp32",
        log_every=0,
    )
    alone: Rates = {"ours": [], "plain, 0 workers": []}
    beside: Rates = {name: [] for name in alone}
    for number in range(1, rounds + 1):
        for name in alone:
            for rates, busy in ((alone, 0), (beside, 1)):
                with busy_cores(busy):
                    # A new process: ours looks at the machine when it starts.
                    rates[name].append(apart(_second_epoch, name, recipe, folder))
                say(number, f"{name}{', beside a busy process' if busy else ''}", rates[name][-1])
    return [
        f"{recipe.model} from random weights, {len(list(folder.glob('*/*')))} images of 32x32, batches of "
        f"{recipe.batch_size}; medians of {rounds} rounds, each in a new",
        "process, the second epoch of it; images per second:",
        "",
        "| | alone | beside a process that keeps one core busy | kept |",
        "|---|---|---|---|",
        *(
            f"| {name} | {(a := statistics.median(alone[name])):.0f} | {(b := statistics.median(beside[name])):.0f} "
            f"| {b / a:.0%} |"
            for name in alone
        ),
        "",
        "Target: ours keeps at least 60 %.",
    ]


def _second_epoch(name: str, recipe: Recipe, folder: Path) -> float:
    torch.set_num_threads(available_cpus())
    gold = read_gold(folder)
    if name == "ours":
        prepare_cpu(recipe.batch_size * gold.train.images[0].size)
        epoch = ours(recipe, gold)
    else:
        epoch = plain(recipe, gold, folder, workers=0)
    epoch()
    return epoch()


@contextmanager
def busy_cores(count: int) -> Iterator[list[BaseProcess]]:
    """Keep so many cores busy with a process each, until the end of the block."""
    context = get_context("spawn")
    ready = context.Semaphore(0)
    processes: list[BaseProcess] = [
        context.Process(target=_spin, args=(os.getpid(), ready), daemon=True) for _ in range(count)
    ]
    try:
        for process in processes:
            process.start()
        for _ in processes:
            ready.acquire()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin(parent: int, ready: Semaphore) -> None:
    ready.release()
    while os.getppid() == parent:  # not for ever, if the benchmark is killed
        for _ in range(1_000_000):
            pass

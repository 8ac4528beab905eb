"""Training on several workers: two of them compared with one, and with what users would write with Ray Train.

    python -m benchmarks.scale --source ../shared/data/cifar10.tar.gz

All sides train the same network on the same images of CIFAR-10, in batches of the same size, with Nesterov SGD on the
CPU. Each worker has one thread:

    one worker          the train stage's loop in one process, without Ray
    two workers         the same loop with `workers=2`: each worker takes half of every batch, on a Ray of its own
    Ray Train script    `benchmarks.scale_script`, on the same Ray: `TorchTrainer` with two workers, `prepare_model`,
                        `prepare_data_loader`, torchvision's transforms on images in memory, batches of half the size

Each side runs in a process of its own. They take turns, a whole training each. Its first epoch is not counted; the rate
of a training is that of the others together, without validation, and without the start of Ray and its workers.

Before that, the losses of one worker and of two are compared on digits, with `sync_batch_norm`: batches, augmentation
and learning rates are the same, so they should differ by rounding alone. What rounding does shows one worker with two
threads, which adds up numbers in another order.

How often workers fetch the shards of gold that is larger than memory is counted, not run (`benchmarks.scale_shards`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import scale_shards
from benchmarks.machine import cpu_model
from benchmarks.report_file import write_above
from benchmarks.scale_sides import WORKERS, one_worker, ray_train_script, two_workers
from benchmarks.training_throughput import read_gold, take_subset
from benchmarks.turns import apart, say
from tasks.contract.recipe import Recipe
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold
from tests.digits import digits_as_gold

SIDES = {"one worker": one_worker, "two workers": two_workers, "Ray Train script": ray_train_script}
WANTED_RATIO, WANTED_DIFFERENCE = 1.7, 1e-4
SIDE, LARGE, LARGE_SIDE = 32, "tf_efficientnet_lite0", 128
COMPARED: dict[str, Any] = {"model": "fast_cnn", "batch_size": 64, "epochs": 3, "learning_rate": 0.001}
DIGITS = 510  # images for losses
NOTES = "## What follows from it"  # kept when the figures above it are rewritten
Rates = dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    options = parsed(arguments)
    networks: list[tuple[str, int | None]] = [(options.model, None)] + [(LARGE, LARGE_SIDE)] * options.large
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        gold = apart(read_gold, take_subset(options.source, Path(folder), options.images), SIDE)
    losses = differences()
    rates = {
        (model, side or SIDE): measure(
            recipe(model=model, input_side=side, batch_size=options.batch, epochs=options.epochs), gold, options.rounds
        )
        for model, side in networks
    }
    text = report(rates, losses, len(gold.train), options)
    print(text)
    if options.write:
        write_above(NOTES, text, options.write)
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options, and refuse those that would measure nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="CIFAR-10 as .tar.gz, or a folder of it")
    parser.add_argument("--model", default="resnet18", help="network that is trained (%(default)s)")
    parser.add_argument("--images", type=int, default=1020, help="training images, of 10 classes (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images of a batch, of all workers (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side, interleaved (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of each training; the first only warms up (%(default)s)")
    parser.add_argument("--large", action="store_true", help=f"also measure {LARGE} at {LARGE_SIDE} pixels")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error(f"--rounds {options.rounds} is too few to show the spread; use 3 or more")
    if options.epochs < 2:
        parser.error(f"--epochs {options.epochs} leaves none after the first, which only warms up; use 2 or more")
    if options.batch % WORKERS:
        parser.error(f"--batch {options.batch} cannot be halved; use an even number")
    if options.images < options.batch:
        parser.error(f"--images {options.images} fill no --batch of {options.batch}; use more")
    if not options.source.exists():
        parser.error(f"--source {options.source} does not exist; give CIFAR-10 as .tar.gz, or a folder of it")
    if available_cpus() < WORKERS:
        parser.error(f"{available_cpus()} core is too few for {WORKERS} workers of one thread each")
    return options


def recipe(**values: Any) -> Recipe:
    """Return what all sides are told to do."""
    fixed = {"learning_rate": 0.01, "device": "cpu", "precision": "fp32", "log_every": 0}
    return Recipe.model_validate(fixed | values)


def measure(what: Recipe, gold: Gold, rounds: int) -> Rates:
    """Let every side train once per round; return images per second of each of its trainings."""
    rates: Rates = {name: [] for name in SIDES}
    for number in range(1, rounds + 1):
        for name, side in SIDES.items():
            rate = counted(apart(side, what, gold).rates)
            say(number, name, rate)
            rates[name].append(rate)
    return rates


def counted(rates: Sequence[float]) -> float:
    """Return images per second of all epochs but the first; all of them have as many images."""
    return statistics.harmonic_mean(rates[1:])


def differences() -> dict[str, list[float]]:
    """Return how far the train losses of two workers, and of two threads, are from those of one, epoch by epoch."""
    what, gold = recipe(**COMPARED), digits_as_gold(train=DIGITS)
    one = apart(one_worker, what, gold).losses
    two = apart(two_workers, what, gold, True).losses
    threads = apart(one_worker, what, gold, 2).losses
    return {"two workers": shares(one, two), "one worker with two threads": shares(one, threads)}


def shares(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the differences of two losses of the same epoch, as shares of the first."""
    return [abs(b - a) / a for a, b in zip(one, other, strict=True)]


def report(
    rates: dict[tuple[str, int], Rates], losses: dict[str, list[float]], images: int, options: argparse.Namespace
) -> str:
    """Make the Markdown report.

    Args:
        rates: of each network, by name and side of its images in pixels.
        losses: how far they are from those of one worker (see `differences`).
        images: that were trained on.
        options: of the command.
    """
    rows = [
        f"| `{model}`, {pixels} pixels, {name} | {min(values):.1f} | {statistics.median(values):.1f} "
        f"| {max(values):.1f} |"
        for (model, pixels), of_network in rates.items()
        for name, values in of_network.items()
    ]
    ratios = [
        f"- `{model}`: two workers / {other} {ratio(of_network, other)}"
        for (model, _), of_network in rates.items()
        for other in ("one worker", "Ray Train script")
    ]
    return "\n".join(
        [
            "# Training on several workers",
            "",
            "Written by `make bench-scale SOURCE=../shared/data/cifar10.tar.gz "
            'ARGS="--write docs/benchmarks/scale.md"`; the top of',
            "`benchmarks/scale.py` describes each side.",
            "",
            "| images per second | min | median | max |",
            "|---|---|---|---|",
            *rows,
            "",
            *ratios,
            "",
            "| train loss, its difference from one worker's as a share |"
            + "".join(f" epoch {number + 1} |" for number in range(COMPARED["epochs"])),
            "|---|" + "---|" * COMPARED["epochs"],
            *(f"| {name} | {' | '.join(f'{share:.1e}' for share in found)} |" for name, found in losses.items()),
            "",
            *scale_shards.table(),
            f"- Losses: two workers differ by **{max(losses['two workers']):.1e}** at most (target: "
            f"{WANTED_DIFFERENCE:.0e}); `{COMPARED['model']}` on {DIGITS} digits, batches of {COMPARED['batch_size']}, "
            f"learning rate {COMPARED['learning_rate']}, `sync_batch_norm`",
            f"- Images per second: {images} images, batches of {options.batch}, float32, one thread a worker; "
            f"n = {options.rounds} trainings of {options.epochs} epochs, of which the first is not counted",
            f"- {available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- {', '.join(f'{name} {version(name)}' for name in ('torch', 'torchvision', 'ray'))}, "
            f"Python {sys.version.split()[0]}",
            "",
        ]
    )


def ratio(rates: Rates, other: str) -> str:
    """State how many times as fast two workers are as another side: of medians, and round by round."""
    two = rates["two workers"]
    rounds = ", ".join(f"{a / b:.2f}" for a, b in zip(two, rates[other], strict=True))
    target = f"target: {WANTED_RATIO}; " if other == "one worker" else ""
    return f"**{statistics.median(two) / statistics.median(rates[other]):.2f}** ({target}round by round: {rounds})"


if __name__ == "__main__":
    raise SystemExit(main())

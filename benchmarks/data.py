"""Reading images: gold in shards on disk, compared with gold in memory and with what users would write.

    python -m benchmarks.data --source ../shared/data/cifar10.tar.gz

The photos are images of CIFAR-10, enlarged to 500x375 pixels (`benchmarks.image_files`). Gold holds them at 224 pixels.
First, batches of 64 alone, float32 and normalised, as a network takes them, in random order:

    memory          gold in memory
    shards          gold in shards on disk (`tasks.vision.data.shards`), with a cache for all of them
    torchvision     `ImageFolder` with Resize, CenterCrop, ToTensor and Normalize, and `DataLoader` with 2 workers: JPEG
                    files are decoded in every epoch
    litdata         LitData's `StreamingDataset` of uint8 arrays at 224 pixels, and `StreamingDataLoader` with 2 workers

LitData is no dependency of this project: `pip install --target FOLDER litdata`, and FOLDER at the end of PYTHONPATH;
without it the others are measured. Then training, as the train stage does it, with gold in memory and in shards.

Each side runs in a process of its own, and they take turns, an epoch each. All files are in the page cache after the
first epoch, which is not counted: this measures the reader, not the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.image_files import make_photos
from benchmarks.machine import cpu_model
from benchmarks.report_file import write_above
from benchmarks.training_throughput import ours, read_gold
from benchmarks.turns import Epoch, Side, apart, say
from tasks.contract.recipe import Recipe
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import reader, writer
from tasks.vision.data.shards.description import DESCRIPTION, parse
from tasks.vision.devices import prepare_cpu
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training.augment import ImageTensor

SIDE, BATCH, WORKERS = 224, 64, 2
LOADERS, TRAININGS = ("memory", "shards", "torchvision", "litdata"), ("memory", "shards")
WANTED_LOADING, WANTED_TRAINING = 0.9, 0.95
NOTES = "## What follows from it"  # kept when the figures above it are rewritten


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="CIFAR-10 as .tar.gz")
    parser.add_argument("--images", type=int, default=2000, help="photos (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side, interleaved (%(default)s)")
    parser.add_argument("--model", default="test_resnet", help="network that is trained (%(default)s)")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-") as folder:
        photos, shards, litdata = (Path(folder) / name for name in ("photos", "shards", "litdata"))
        make_photos(options.source, photos, options.images)
        writing = apart(write_shards, photos, shards)
        loaders = LOADERS if find_spec("litdata") else LOADERS[:-1]
        if "litdata" in loaders:
            apart(write_litdata, photos, litdata)
        places = {"torchvision": photos, "litdata": litdata}
        loading = turns(make_loader, {name: (name, places.get(name, shards)) for name in loaders}, options.rounds)
        training = turns(make_training, {name: (name, shards, options.model) for name in TRAININGS}, options.rounds)
    text = report(loading, training, writing, options)
    print(text)
    if options.write:
        write_above(NOTES, text, options.write)
    return 0


def turns(make: Any, sides: dict[str, tuple[Any, ...]], rounds: int) -> dict[str, list[float]]:
    """Run every side once per round, in processes of their own; return images per second."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    with ExitStack() as stack:
        running = {name: stack.enter_context(closing(Side(make, *args))) for name, args in sides.items()}
        for number in range(rounds + 1):
            for name, side in running.items():
                rate = side.epoch()
                say(number, name, rate)
                if number:
                    rates[name].append(rate)
    return rates


def write_shards(photos: Path, folder: Path) -> float:
    """Write gold of the photos to a folder; return images written per second, decoding not counted."""
    gold = read_gold(photos, SIDE)
    started = time.perf_counter()
    writer.save(gold, folder)
    return len(gold.train) / (time.perf_counter() - started)


def write_litdata(photos: Path, folder: Path) -> None:
    """Write the same images for LitData."""
    import litdata

    gold = read_gold(photos, SIDE)
    images = gold.train.images
    litdata.optimize(
        fn=partial(_sample, np.asarray(images), gold.train.labels),
        inputs=list(range(len(images))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )


def _sample(images: np.ndarray, labels: np.ndarray, position: int) -> dict[str, Any]:
    return {"image": images[position], "label": int(labels[position])}


def open_gold(folder: Path, *, on_disk: bool) -> Gold:
    """Open gold of a folder as a stage does: copied from where it is stored."""

    def fetch(name: str, target: Path) -> Path:
        return Path(shutil.copy(folder / name, target / name))

    description = parse((folder / DESCRIPTION).read_bytes(), str(folder))
    most = 0 if on_disk else None
    return reader.read(description, fetch, most_memory=most, where=str(folder), fix="measure again")


def make_loader(name: str, folder: Path) -> tuple[Epoch, float]:
    """Return a function that reads all images once, in random order, and returns images per second."""
    torch.set_num_threads(available_cpus())
    if name == "torchvision":
        return _epoch_of(_torchvision(folder)), 0.0
    if name == "litdata":
        return _epoch_of(_litdata(folder)), 0.0
    gold = open_gold(folder, on_disk=name == "shards")
    train = ImageTensor(gold.train.images, gold.train.labels, Preprocessing(gold.mean, gold.std), torch.device("cpu"))

    def epoch() -> float:
        return _rate(train.read(torch.randperm(len(train)).split(BATCH)))  # type: ignore[no-untyped-call]

    return epoch, 0.0


def _torchvision(folder: Path) -> DataLoader:
    steps = [
        transforms.Resize(SIDE),
        transforms.CenterCrop(SIDE),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.2,) * 3),
    ]
    dataset = ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def _litdata(folder: Path) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, transform=_normalised)
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)


def _normalised(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return (torch.from_numpy(sample["image"]).float() / 255 - 0.5) / 0.2, sample["label"]


def _epoch_of(loader: Iterable[Any]) -> Epoch:
    return lambda: _rate(loader)


def _rate(batches: Iterable[Any]) -> float:
    seen, started = 0, time.perf_counter()
    for images, _ in batches:
        seen += len(images)
    return seen / (time.perf_counter() - started)


def make_training(name: str, folder: Path, model: str) -> tuple[Epoch, float]:
    """Return a function that trains an epoch as the train stage does, and returns images per second."""
    gold = open_gold(folder, on_disk=name == "shards")
    recipe = Recipe.model_validate(
        {"model": model, "batch_size": BATCH, "epochs": 100, "device": "cpu", "log_every": 0, "learning_rate": 0.02}
    )
    prepare_cpu(BATCH * gold.train.images[0].size)
    return ours(recipe, gold), 0.0


def report(
    loading: dict[str, list[float]], training: dict[str, list[float]], writing: float, options: argparse.Namespace
) -> str:
    """Make the Markdown report."""
    trained = {f"training, {name}": rates for name, rates in training.items()}
    middle = {name: statistics.median(rates) for name, rates in (loading | trained).items()}
    rows = [
        f"| {name} | {min(rates):.0f} | {middle[name]:.0f} | {max(rates):.0f} |"
        for name, rates in (loading | trained).items()
    ]
    packages = ("torch", "torchvision", "litdata") if "litdata" in loading else ("torch", "torchvision")
    return "\n".join(
        [
            "# Reading images",
            "",
            'Written by `make bench-data SOURCE=../shared/data/cifar10.tar.gz ARGS="--write docs/benchmarks/data.md"`;',
            "the top of `benchmarks/data.py` describes each side.",
            "",
            "| images per second | min | median | max |",
            "|---|---|---|---|",
            *rows,
            "",
            *(
                f"- Reading: shards / {name} **{middle['shards'] / middle[name]:.2f}**"
                + (f" (target: {WANTED_LOADING})" if name == "torchvision" else "")
                for name in loading
                if name != "shards"
            ),
            f"- Training `{options.model}`: shards / memory "
            f"**{middle['training, shards'] / middle['training, memory']:.2f}** (target: {WANTED_TRAINING})",
            f"- {options.images} images of {SIDE} pixels, batches of {BATCH}; n = {options.rounds} epochs after one "
            f"not counted; written as shards by one process, {writing:.0f} images/s",
            f"- {available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- {', '.join(f'{name} {version(name)}' for name in packages)}, Python {sys.version.split()[0]}",
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())

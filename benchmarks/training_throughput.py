"""Training throughput: this pipeline compared with the usual torchvision loop, interleaved in one run.

    python -m benchmarks.training_throughput --source ../shared/data/cifar10.tar.gz

Both sides train the same network with Nesterov SGD on the same JPEG files at the same batch size, on the CPU, with as
many threads as there are cores. Only the implementation differs:

    ours        `tasks.vision.training.loop`: images decoded once and kept as uint8, augmentation on whole batches,
                channels_last, fused optimiser, gradients of `tasks.vision.training.kernels`, an allocator that keeps
                its memory
    plain       `ImageFolder` and `DataLoader`, PIL transforms (RandomCrop with padding, flip, ToTensor, Normalize),
                NCHW, shuffled, torch.optim.SGD's default implementation, the textbook loop; with 0 workers and
                with 2

Each side runs in a process of its own and they take turns, an epoch each, so that a slow minute of the machine affects
all of them. The plain loop decodes in every epoch, so its rate includes decoding. Ours decodes once, before training;
the seconds that takes are reported beside the rates. Neither rate includes validation and logging.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.machine import cpu_model
from benchmarks.turns import Epoch, Side
from tasks.contract.recipe import Recipe
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Split
from tasks.vision.data.images import decode
from tasks.vision.devices import prepare_cpu
from tasks.vision.models.build import build
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training

WANTED_RATIO = 3.0


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder or .tar.gz with train/CLASS/*.jpg")
    parser.add_argument("--model", default="mobilenet_v3_small")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=5000, help="training images used (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side, interleaved (%(default)s)")
    parser.add_argument("--require", type=float, help="exit with 1 when ours / plain is below this")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error(f"--rounds {options.rounds} is too few to show the spread; use 3 or more")

    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        images = take_subset(options.source, Path(folder), options.images)
        text, ratio = measure(images, options.model, options.batch_size, options.rounds)
    print(text)
    if options.write:
        options.write.write_text(text + _notes(options.write), encoding="utf-8")
    if options.require is not None and ratio < options.require:
        print(f"a ratio of {ratio:.2f} is below --require {options.require:g}", file=sys.stderr)
        return 1
    return 0


def take_subset(source: Path, folder: Path, count: int) -> Path:
    """Copy `count` training images, the same number of each class, to `folder/CLASS/`; return `folder`."""
    by_class: dict[str, list[tuple[str, bytes]]] = {}
    for path, data in _training_files(source):
        by_class.setdefault(path.parent.name, []).append((path.name, data))
    if len(by_class) < 2:
        raise SystemExit(f"--source {source} has no train/CLASS/* with two or more classes")
    each = count // len(by_class)
    for name, files in by_class.items():
        (folder / name).mkdir()
        for file, data in files[:each]:
            (folder / name / file).write_bytes(data)
    return folder


def _training_files(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    if source.is_dir():
        for file in sorted(source.rglob("train/*/*")):
            yield PurePosixPath(file.as_posix()), file.read_bytes()
        return
    with tarfile.open(source) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if member.isfile() and path.parts[-3:-2] == ("train",) and (content := archive.extractfile(member)):
                yield path, content.read()


def measure(folder: Path, model: str, batch_size: int, rounds: int) -> tuple[str, float]:
    """Run every side once per round; return the report, Markdown, and the ratio of ours to the faster plain side."""
    recipe = Recipe.model_validate(
        {
            "model": model,
            "batch_size": batch_size,
            "epochs": rounds + 1,
            "learning_rate": 0.02,
            "device": "cpu",
            "precision": "fp32",
            "log_every": 0,
        }
    )
    rates: dict[str, list[float]] = {"ours": [], "plain, 0 workers": [], "plain, 2 workers": []}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(closing(Side(_make, name, recipe, folder))) for name in rates}
        for number in range(rounds + 1):
            for name, side in sides.items():
                rate = side.epoch()
                print(f"{'warm-up' if number == 0 else f'round {number}'}: {name}: {rate:.0f} images/s", flush=True)
                if number > 0:  # the first epoch fills caches: pages, kernels, workers' imports
                    rates[name].append(rate)
    reading = sides["ours"].reading
    ratio = statistics.median(rates["ours"]) / max(statistics.median(v) for name, v in rates.items() if name != "ours")
    return report(rates, ratio, recipe, folder, reading), ratio


def _make(name: str, recipe: Recipe, folder: Path) -> tuple[Epoch, float]:
    torch.set_num_threads(available_cpus())
    started = time.perf_counter()
    gold = read_gold(folder)
    reading = time.perf_counter() - started
    if name == "ours":
        prepare_cpu(recipe.batch_size * gold.train.images[0].size)
        return ours(recipe, gold), reading
    return plain(recipe, gold, folder, workers=int(name.split()[1])), reading


def read_gold(folder: Path, side: int | None = None) -> Gold:
    """Decode the images of `folder/CLASS/` as prepare does, to `side` pixels or the size of the first one."""
    dataset = ImageFolder(folder)
    size = side or min(dataset[0][0].size)
    images = np.stack([decode(Path(path).read_bytes(), 3, size) for path, _ in dataset.samples])
    labels = np.array(dataset.targets, dtype=np.int64)
    pixels = images / 255
    split = Split(images, labels, tuple(path for path, _ in dataset.samples))
    few = Split(images[:16], labels[:16], split.names[:16])
    return Gold(
        train=split,
        validation=few,
        test=few,
        classes=tuple(dataset.classes),
        mean=tuple(pixels.mean((0, 2, 3)).tolist()),
        std=tuple(pixels.std((0, 2, 3)).tolist()),
        fingerprint="0" * 64,
        dataset="image_folder",
    )


def ours(recipe: Recipe, gold: Gold, trained: Mapping[str, torch.Tensor] | None = None) -> Epoch:
    """Return a function that trains one epoch as the train stage does, and returns images per second."""
    events = Training(recipe, gold, trained).run()

    def epoch() -> float:
        end = next(events)
        assert isinstance(end, EpochEnd)  # noqa: S101  # log_every=0 asks for nothing else
        return end.images_per_second

    return epoch


def plain(recipe: Recipe, gold: Gold, folder: Path, workers: int) -> Epoch:
    """Return a function that trains one epoch the textbook way, and returns images per second."""
    side = gold.shape[1]
    transform = transforms.Compose(
        [
            transforms.RandomCrop(side, padding=side // 8),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(gold.mean, gold.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    network = build(recipe.model, len(gold.classes), gold.shape)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    return textbook(network, optimizer, loader)


def textbook(network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> Epoch:
    """Return a function that trains one epoch with the textbook loop, and returns images per second."""
    criterion = nn.CrossEntropyLoss()

    def epoch() -> float:
        network.train()
        seen, started = 0, time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            seen += len(labels)
        return seen / (time.perf_counter() - started)

    return epoch


def report(rates: dict[str, list[float]], ratio: float, recipe: Recipe, folder: Path, reading: float) -> str:
    """Make the Markdown report: rates, ratios to ours, machine, versions, command."""
    files = sorted(folder.glob("*/*"))
    shape = decode(files[0].read_bytes(), 3, min(ImageFolder(folder)[0][0].size)).shape
    ours = statistics.median(rates["ours"])
    rows = [
        f"| {name} | {min(v):.0f} | {statistics.median(v):.0f} | {max(v):.0f} | {ours / statistics.median(v):.2f} |"
        for name, v in rates.items()
    ]
    return "\n".join(
        [
            "# Training throughput",
            "",
            "The train stage's loop compared with a plain torchvision `ImageFolder` + `DataLoader` loop: "
            "the same network,",
            "Nesterov SGD and JPEG files; each side in its own process, alternating. Written by",
            "`python -m benchmarks.training_throughput --source ../shared/data/cifar10.tar.gz "
            "--write docs/benchmarks/training.md`;",
            "the top of that program describes each side. Use an otherwise idle machine: with other load on the "
            "same two cores,",
            "you would measure that load.",
            "",
            "| images per second | min | median | max | ours / this |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Ratio of ours to the faster plain loop: **{ratio:.2f}** (target: {WANTED_RATIO:.0f}).",
            "",
            f"- `{recipe.model}`, batch {recipe.batch_size}, {len(files)} images of "
            f"{'x'.join(map(str, shape))}, float32; n = {len(rates['ours'])} epochs of each side after one to "
            "warm up, interleaved",
            f"- {available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- torch {version('torch')}, torchvision {version('torchvision')}, Pillow {version('pillow')}, "
            f"Python {platform.python_version()}",
            f"- ours decoded all images once beforehand, in {reading:.1f} s",
            "",
        ]
    )


def _notes(page: Path) -> str:
    """The part of the page that was written by hand: from its first second-level heading on."""
    _, heading, notes = page.read_text(encoding="utf-8").partition("\n## ") if page.exists() else ("", "", "")
    return heading + notes


if __name__ == "__main__":
    raise SystemExit(main())

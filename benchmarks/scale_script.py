"""What users would write to train on several workers: the loop of Ray Train's guide, with torchvision's transforms.

Nothing of this project is imported here. `benchmarks.scale_sides` starts it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from PIL import Image
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader, prepare_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Photos(Dataset):
    """Images [N, H, W, 3] in memory, each made and changed by itself, as in torchvision's `CIFAR10`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, side: int, mean: Any, std: Any) -> None:
        """Change images at random, and give them `side` pixels."""
        self.images, self.labels = images, labels
        resize = [] if images.shape[1] == side else [transforms.Resize((side, side))]
        crop = transforms.RandomCrop(images.shape[1], padding=images.shape[1] // 8)
        change = [crop, transforms.RandomHorizontalFlip(), *resize]
        self.transform = transforms.Compose([*change, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image and its label."""
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def train(config: dict[str, Any]) -> None:
    """Train in one worker; the first one writes all workers' images per second, of each epoch, to a file."""
    context = ray.train.get_context()
    workers = context.get_world_size()
    network = prepare_model(config["make_network"]())
    optimizer = torch.optim.SGD(network.parameters(), **config["sgd"])
    photos = Photos(*ray.get(config["photos"]), **config["change"])
    loader = prepare_data_loader(DataLoader(photos, batch_size=config["batch_size"] // workers, shuffle=True))
    rates = []
    for epoch in range(config["epochs"]):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # a DistributedSampler by now
        network.train()
        seen, started = 0, time.perf_counter()
        for images, labels in loader:
            loss = cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)
        rates.append(workers * seen / (time.perf_counter() - started))
    if context.get_world_rank() == 0:
        Path(config["rates"]).write_text(json.dumps(rates))


def fit(config: dict[str, Any], workers: int, folder: Path) -> list[float]:
    """Train on workers of one CPU each; return images per second of each epoch."""
    rates = folder / "rates.json"
    TorchTrainer(
        train,
        train_loop_config=config | {"rates": str(rates)},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="script", storage_path=str(folder)),
    ).fit()
    return json.loads(rates.read_text())

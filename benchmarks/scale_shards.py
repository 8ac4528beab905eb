"""How often workers fetch a shard in an epoch: counted on the real order of batches, not run."""

from __future__ import annotations

import math

import numpy as np
import torch

from tasks.vision.data.gold import Split
from tasks.vision.data.shards.writer import SHARD_BYTES
from tasks.vision.training.order import epoch_batches
from tasks.vision.training.replicas import Replicas

SHAPE = (3, 224, 224)
IMAGES = 171_000  # 24 GiB, six windows
BATCH = 32  # images of a worker
WORKERS = (1, 2, 4, 8, 16, 64)


class Lengths:
    """Images [N, C, H, W] of which nothing is known but how many bytes they have."""

    def __init__(self, count: int) -> None:
        """Have `count` images."""
        self.shape = (count, *SHAPE)
        self.dtype = np.dtype(np.uint8)
        self.nbytes = math.prod(self.shape)


def fetched(workers: int, batch: int, count: int) -> float:
    """Return how often a shard is fetched in an epoch of `count` images, on average, if no worker fetches it twice.

    Args:
        workers: how many train.
        batch: images of each, in a batch.
        count: images of the epoch.
    """
    each = SHARD_BYTES // math.prod(SHAPE)
    shards = (*range(0, count, each), count)
    split = Split(Lengths(count), np.zeros(count, np.int64), range(count), shards=shards)  # type: ignore[arg-type]
    torch.manual_seed(0)
    steps = math.ceil(count / (batch * workers))
    batches = epoch_batches(split, torch.zeros(count, dtype=torch.int64), steps, balanced=False, one_size=False)
    total = 0
    for rank in range(workers):
        own = torch.cat([Replicas(rank, workers).share(one) for one in batches])
        total += len(np.unique(np.searchsorted(shards, own.numpy(), side="right")))
    return total / (len(shards) - 1)


def table() -> list[str]:
    """Return lines of Markdown."""
    counts = [f"{fetched(workers, BATCH, IMAGES):.1f}" for workers in WORKERS]
    return [
        f"| workers | {' | '.join(map(str, WORKERS))} |",
        "|---|" + "---|" * len(WORKERS),
        f"| fetches of a shard in an epoch | {' | '.join(counts)} |",
        "",
        f"- Fetches: counted on the order of {IMAGES:,} images of {SHAPE[1]} pixels, {BATCH} of a worker in each "
        "batch; if every worker needed every shard, there would be as many as workers",
    ]

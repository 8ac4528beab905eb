"""Hands out the files of gold to processes of a Ray: nodes of a cluster have no password of MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import ray

from tasks.cluster.session import beside_the_stage
from tasks.cluster.shared_gold import HeldGold, SharedGold
from tasks.cluster.stored_gold import StoredGold
from tasks.records import gold_store, tracking
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.settings import Settings, load_settings
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards.images import ShardImages


class GoldFiles:
    """Reads files of gold, beside the stage. Who asks checks what it gets."""

    def __init__(self, gold_run_id: str, say: Callable[[str], object] | None) -> None:
        """Connect to MLflow with the environment of the stage; `say` is told what is waited for."""
        tracking.connect(load_settings())
        self._fetch = gold_store.fetching(gold_run_id, say)

    def read(self, name: str) -> bytes:
        """Return the content of one file; waits for a store that is away.

        Raises:
            DataError: it is missing.
            UnavailableError: the store was away for too long.
        """
        with tempfile.TemporaryDirectory(prefix="gold-") as folder:
            return self._fetch(name, Path(folder) / gold_store.ARTIFACT).read_bytes()


def is_stored(gold: Gold) -> bool:
    """Whether the images of a stage's gold are on its disk, and not in memory."""
    return isinstance(gold.train.images, ShardImages)


def share(
    gold: Gold, data: PreparedData, settings: Settings, readers: int, say: Callable[[str], object] | None = None
) -> SharedGold:
    """Return what other processes of the Ray open a stage's gold with; see `share_stored` where it is on disk."""
    return share_stored(data, settings, readers, say) if is_stored(gold) else HeldGold(ray.put(gold))


def share_stored(
    data: PreparedData, settings: Settings, readers: int, say: Callable[[str], object] | None = None
) -> StoredGold:
    """Start the actor, which takes one of the stage's slots, and return what other processes open gold with.

    Args:
        data: which gold.
        settings: what it may take on a disk.
        readers: how many processes will open it, at the same time.
        say: is told what is waited for, in the actor's process; None: nobody.

    Raises:
        DataError: the gold is missing or damaged.
        ChangedError: the gold is not what was stored.
    """
    return StoredGold(
        gold_store.describe(data.gold_run_id, data.gold_sha256),
        beside_the_stage(GoldFiles).remote(data.gold_run_id, say),
        settings.gold_disk_bytes,
        readers,
        gold_store.where(data.gold_run_id),
        gold_store.FIX,
    )

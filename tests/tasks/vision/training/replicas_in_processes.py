"""Runs a function in several processes that form torch's process group, as Ray's workers do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from tasks.vision.training.events import EpochEnd
from tasks.vision.training.replicas import Replicas

PATIENCE = timedelta(minutes=5)  # of a process with the others, after which all end with an error; torch's is 30


def together(work: Callable[..., Any], folder: Path, *arguments: Any, size: int) -> list[Any]:
    """Return what `work(replicas, *arguments)` returned in each of `size` processes, by rank.

    These may be tensors, `EpochEnd` and plain values.
    """
    folder.mkdir()
    # The server of the processes imports torch once for all of them.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "tasks.vision.training.loop"])
    run = (size, folder, work, arguments)
    multiprocessing.start_processes(  # type: ignore[attr-defined]
        _run, run, nprocs=size, start_method="forkserver"
    )
    with torch.serialization.safe_globals([EpochEnd]):
        return [torch.load(folder / str(rank), weights_only=True) for rank in range(size)]


def _run(rank: int, size: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/group", PATIENCE, rank=rank, world_size=size)
    torch.save(work(Replicas.joined(), *arguments), folder / str(rank))
    distributed.destroy_process_group()

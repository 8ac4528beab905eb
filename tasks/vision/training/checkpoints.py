"""Checkpoints on disk: written atomically, and verified before they are used.

    FOLDER/checkpoint-0.pt, checkpoint-0.json     two slots, written in turn: while one is written,
    FOLDER/checkpoint-1.pt, checkpoint-1.json     the other holds the epoch before

The .json names epoch, batch, length and SHA-256 of its .pt. Where they do not agree, because a process or an upload
was interrupted, the slot counts as damaged and the other one is used. A slot that agrees, but is not one of those that
the training is known to have saved, was put there by someone else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from tasks.errors import ChangedError, DataError
from tasks.files import replacing, sha256

SLOTS = ("checkpoint-0", "checkpoint-1")

log = logging.getLogger("tasks.train")


def save(state: dict[str, Any], epoch: int, folder: Path, *, step: int = 0, slot: int | None = None) -> list[Path]:
    """Write a checkpoint; return its two files.

    Args:
        state: tensors and plain values.
        epoch: how many epochs were complete.
        folder: where checkpoints are.
        step: batches since then.
        slot: which one to write over; by default another one after each epoch.
    """
    target = folder / f"{SLOTS[epoch % len(SLOTS) if slot is None else slot]}.pt"
    description = target.with_suffix(".json")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        torch.save(state, file)
    about = {"epoch": epoch, "step": step, "bytes": target.stat().st_size, "sha256": sha256(target)}
    with replacing(description) as file:
        file.write(json.dumps(about).encode())
    return [target, description]


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint, as tensors and plain values only: nothing in it is executed.

    Raises:
        DataError: its SHA-256 is not the one in its description.
    """
    about = _description(path)
    if not path.is_file() or about.get("sha256") != sha256(path):
        raise DataError(f"checkpoint {path.name} is damaged: its SHA-256 is not {about.get('sha256')}; use another one")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def digests(folder: Path) -> list[str]:
    """Return the SHA-256 of each good checkpoint of `folder`."""
    found = {path: _description(path).get("sha256") for path in _slots(folder) if path.is_file()}
    return [digest for path, digest in found.items() if digest == sha256(path)]


def load_newest(folder: Path, saved: Collection[str] | None = None) -> dict[str, Any] | None:
    """Read the newest good checkpoint of `folder`; a damaged one is logged and skipped.

    Args:
        folder: where `save` wrote.
        saved: the SHA-256 of all that a good checkpoint can be; None: not known.

    Returns:
        The state, or None where no slot is good.

    Raises:
        ChangedError: a good checkpoint is none of `saved`.
    """
    if saved is not None:
        for digest in digests(folder):
            if digest not in saved:
                raise ChangedError(
                    f"a checkpoint with SHA-256 {digest[:12]}... is not one that this training saved: someone put it "
                    "there; find out who can write to the store, and start a new DAG run"
                )
    for path in sorted(_slots(folder), key=_progress, reverse=True):
        if not _description(path) and not path.exists():
            continue
        try:
            return load(path)
        except DataError as error:
            log.warning("%s; using the checkpoint before it", error)
    return None


def older_slot(folder: Path) -> int:
    """Return the slot that does not hold the newest checkpoint."""
    return min(range(len(SLOTS)), key=lambda slot: _progress(_slots(folder)[slot]))


def _progress(path: Path) -> tuple[int, int]:
    """Return epochs and batches after which a checkpoint was saved; one that is missing comes first."""
    about = _description(path)
    return (int(about.get("epoch", 0)), int(about.get("step", 0))) if about else (-1, 0)


def _slots(folder: Path) -> list[Path]:
    return [folder / f"{name}.pt" for name in SLOTS]


def _description(path: Path) -> dict[str, Any]:
    """Read the description of a checkpoint; empty where it is missing or incomplete."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}

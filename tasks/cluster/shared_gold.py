"""Gold as the stage hands it to other processes of a Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import ray

from tasks.vision.data.gold import Gold


class SharedGold(Protocol):
    """What a process needs to open gold: `HeldGold`, or `StoredGold` where it is larger than memory."""

    def open(self) -> Gold:
        """Open it; see `StoredGold` for what is raised where images stay on disk."""
        ...


@dataclass(frozen=True)
class HeldGold:
    """Gold in Ray's memory, which has it once on each machine.

    Attributes:
        reference: what Ray's memory has.
    """

    reference: ray.ObjectRef[Gold]

    def open(self) -> Gold:
        """Return it; its images are read-only."""
        gold: Gold = ray.get(self.reference)
        return gold

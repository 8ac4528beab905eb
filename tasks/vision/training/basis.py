"""What the defaults of a recipe depend on, of some gold."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.contract.recipe import Basis
from tasks.vision.data.gold import Gold


def basis_of(gold: Gold, pretrained: Iterable[str], *, gpu: bool) -> Basis:
    """Describe the data, the networks that start from trained weights, and whether a GPU trains them."""
    return Basis(gold.dataset, len(gold.train), min(gold.shape[1:]), frozenset(pretrained), "gpu" if gpu else "cpu")

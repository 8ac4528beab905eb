"""What the defaults of a recipe depend on, of some gold on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.contract.recipe import Basis
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device


def basis_of(gold: Gold, device: str, pretrained: Iterable[str]) -> Basis:
    """Describe the data and the machine.

    Args:
        gold: the data.
        device: as the request asks for it.
        pretrained: the networks that start from trained weights.

    Raises:
        RequestError: the device is not available.
    """
    accelerated = choose_device(device).type != "cpu"
    return Basis(
        gold.dataset, len(gold.train), min(gold.shape[1:]), frozenset(pretrained), "gpu" if accelerated else "cpu"
    )

"""How far an epoch got: what a checkpoint in its middle holds besides the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from tasks.vision.training.replicas import Replicas


@dataclass
class Position:
    """Batches done in the epoch, and what was added up over them, on the device.

    Attributes:
        steps: batches done.
        loss_sum: of their images, [].
        correct: answers among them, [].
        random: states of torch's generators, of the CPU and of the device, after these batches; those of another kind
            of device are not used.
    """

    loss_sum: Tensor
    correct: Tensor
    steps: int = 0
    random: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, device: torch.device) -> Self:
        """Return the position before the first batch."""
        return cls(torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64))

    @classmethod
    def of(cls, state: dict[str, Any], device: torch.device) -> Self:
        """Return the position that `state_dict` wrote, for this device."""
        return cls(state["loss_sum"].to(device), state["correct"].to(device), state["steps"], state["random"])

    def collect(self, replicas: Replicas) -> tuple[Tensor, Tensor]:
        """Return the sums of all replicas, [] each, after which the first one has them and the others nothing."""
        if replicas.alone:
            return self.loss_sum, self.correct
        loss_sum, correct = self.loss_sum, self.correct = replicas.total(self.loss_sum), replicas.total(self.correct)
        if replicas.rank > 0:
            self.clear_sums()
        return loss_sum, correct

    def clear_sums(self) -> None:
        """Forget the sums: another replica has them."""
        self.loss_sum, self.correct = torch.zeros_like(self.loss_sum), torch.zeros_like(self.correct)

    def state_dict(self) -> dict[str, Any]:
        """Return it as tensors and plain values, with the generators as they are now."""
        random = {"cpu": torch.get_rng_state()}
        if (kind := self.loss_sum.device.type) != "cpu":
            random[kind] = torch.get_device_module(kind).get_rng_state()
        return {"loss_sum": self.loss_sum, "correct": self.correct, "steps": self.steps, "random": random}

    def restore_random(self) -> None:
        """Set torch's generators to where they were after these batches."""
        kind = self.loss_sum.device.type
        if kind in self.random:
            torch.set_rng_state(self.random["cpu"])
            if kind != "cpu":
                torch.get_device_module(kind).set_rng_state(self.random[kind])

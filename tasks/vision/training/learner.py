"""A network with all that changes its weights: optimiser, gradient scaler and running average."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contract.recipe import Recipe
from tasks.errors import RequestError
from tasks.vision.training import class_balance
from tasks.vision.training.distillation import Teacher
from tasks.vision.training.graphs import Recorded
from tasks.vision.training.mixing import make_mixing
from tasks.vision.training.optimizers import WeightAverage, make_optimizer, set_learning_rate
from tasks.vision.training.replicas import Replicas


class Learner:
    """Trains a network one batch at a time; knows nothing of data sets and epochs."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        precision: torch.dtype,
        classes: int,
        labels: Tensor,
        teacher: Teacher | None = None,
        replicas: Replicas | None = None,
        micro_batches: int = 1,
    ) -> None:
        """Make the optimiser of a network that is on its device already.

        Args:
            network: from images [B, C, H, W] to logits [B, classes].
            recipe: what to do.
            precision: of the forward pass; weights are float32.
            classes: number of classes.
            labels: int64 [N], of all training images: how often there is each class.
            teacher: on the same device; the network learns from its answers too.
            replicas: those that train this network together; all make it with the same weights.
            micro_batches: parts in which a batch, or this replica's share, passes through the network: the fewer
                images at once, the less memory they need. Each has an image at least.
        """
        self.network = network
        # How much the images of each class count, float32 [classes]; None: all alike.
        self.class_weights = None if recipe.class_balance == "none" else class_balance.class_weights(labels, classes)
        self._teacher = teacher
        self._recipe = recipe
        self._precision = precision
        self._device = next(network.parameters()).device.type
        self._replicas = replicas or Replicas()
        self._forward = self._replicas.forward(network)
        self._micro_batches = micro_batches
        # The gradients of a recording lie where its next pass writes them: they cannot be added up.
        if self._device == "cuda" and self._replicas.alone and micro_batches == 1:
            self._forward = Recorded(network)
        self._mix = make_mixing(recipe.mixup, recipe.cutmix, classes)
        self._optimizer = make_optimizer(network, recipe)
        # float16 gradients underflow without it; every other precision has float32's range.
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision is torch.float16)
        self._average = WeightAverage(network, recipe.ema_decay) if recipe.ema_decay > 0 else None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the average of weights if the recipe asks for one."""
        return self.network if self._average is None else self._average.network

    def restart_average(self) -> None:
        """Begin the average of weights anew, with the weights as they are now."""
        if self._average is not None:
            self._average = WeightAverage(self.network, self._recipe.ema_decay)

    def begin_epoch(self) -> None:
        """Put the network into training mode."""
        self.network.train()
        if self._recipe.finetune != "scratch":
            _freeze_statistics(self.network)

    def gather_statistics(self) -> None:
        """Bring together what the replicas know besides weights, before the network is validated or kept."""
        for network in dict.fromkeys((self.network, self.evaluated)):  # in the same order in all of them
            self._replicas.average(list(network.buffers()))

    def step(
        self, images: Tensor, labels: Tensor, learning_rate: float, number: int, weight: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch, or on this replica's share of one.

        Args:
            images: [B, C, H, W], augmented and normalised.
            labels: int64 [B].
            learning_rate: of this batch.
            number: of the batch since the start of training, from 1.
            weight: of the loss (see `Replicas.weight`).

        Returns:
            Loss [], logits [B, classes] and labels [B], those with the larger share where images were mixed; all on
            the device.
        """
        images, targets = self._mix(images, labels)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        loss, logits = self._pass(images, targets, weight)
        if self._recipe.gradient_clip > 0:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self.network, number)
        return loss, logits, targets if targets.ndim == 1 else targets.argmax(1)

    def _pass(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Pass a batch through the network and back, in parts whose gradients are added up; return loss and logits."""
        losses, logits, count = [], [], self._micro_batches
        parts = zip(images.tensor_split(count), targets.tensor_split(count), strict=True)
        for number, (own_images, own_targets) in enumerate(parts, 1):
            share = len(own_images) / len(images)
            with nullcontext() if number == count else self._replicas.own_gradients(self._forward):
                loss, answers = self._loss(own_images, own_targets)
                self._scaler.scale(loss * (weight * share)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach() * share)
            logits.append(answers.detach())
        return torch.stack(losses).sum(), torch.cat(logits)

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss over images that pass through the network at once, and their logits."""
        weights = self.class_weights if self._recipe.class_balance == "weights" else None
        lower = self._precision is not torch.float32
        # Each weight is used once in a pass, and CUDA graphs cannot keep copies of them between passes.
        with torch.autocast(self._device, dtype=self._precision, enabled=lower, cache_enabled=False):
            logits = self._forward(images)
            loss = class_balance.loss(logits, targets, self._recipe.label_smoothing, weights)
            if self._teacher is not None:
                loss = self._teacher.loss(images, logits, loss)
        return loss, logits

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes, as tensors and plain values; valid until the next batch."""
        return {
            "network": self.network.state_dict(),
            "average": self._average.network.state_dict() if self._average else {},
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, on this device, whatever device it was saved on; other entries are left alone."""
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.network.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def require_finite(loss: float, epoch: int, learning_rate: float) -> None:
    """Require that a loss is a number.

    Raises:
        RequestError: it is not; naming what helps.
    """
    if not math.isfinite(loss):
        raise RequestError(
            f"the loss became {loss} in epoch {epoch} at a learning rate of {learning_rate:g}; "
            "lower learning_rate, or set gradient_clip to 1"
        )


def _freeze_statistics(network: nn.Module) -> None:
    """Let batch normalisation use the statistics that it has: those of a million images beat those of a batch of 32."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()

"""The training loop. Plain torch: it yields events, and the caller logs, saves or stops.

    training = Training(recipe, gold)
    for event in training.run():
        match event:
            case BatchEnd(): ...   # every `log_every` batches
            case EpochEnd(): ...   # training.state_dict() is a complete checkpoint here
    training.best_classifier()

Fast on a CPU: images stay in memory as uint8, augmentation works on whole batches, convolutions get channels_last
memory and faster gradients, the optimiser updates all weights in one kernel. Measured in docs/benchmarks/training.md.

Exact: every epoch seeds torch from (seed, epoch), and learning rates are functions of the step and the history. A
checkpoint between epochs therefore needs no state of generators or schedules, and a training resumed from one ends
with the same bits as one without an interruption, on the same CPU with as many threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contract.datasets import flips
from tasks.contract.recipe import Recipe
from tasks.errors import DataError, RequestError
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device, choose_precision
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier
from tasks.vision.training import schedules
from tasks.vision.training.augment import Augmentation, ImageTensor, normalisation
from tasks.vision.training.kernels import optimize_for_cpu
from tasks.vision.training.optimizers import WeightAverage, make_optimizer, set_learning_rate

SEED_STRIDE = 1_000_003  # more than the epochs of any request, so that no two (seed, epoch) share a seed
VALIDATION_BATCH = 512
CHECKPOINT_FORMAT = 2


@dataclass(frozen=True)
class BatchEnd:
    """One training batch, every `log_every` of them."""

    step: int
    """Batches since the start of training, from 1."""
    epoch: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class EpochEnd:
    """One pass over the training images, and the validation after it."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the augmented training images, with label smoothing, while the weights were changing."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    """Of the last batch."""
    images_per_second: float
    """Training images by the seconds of training alone, without validation and logging."""
    epoch_seconds: float
    """Training and validation."""


class Training:
    """One training of one network, from fresh weights or from a checkpoint."""

    def __init__(self, recipe: Recipe, gold: Gold) -> None:
        """Choose the device, move the images to it, make the network and its optimiser.

        Raises:
            RequestError: the requested device or precision is not available.
            DataError: the images are too few or too small.
        """
        self.recipe = recipe
        self.device = choose_device(recipe.device)
        self.precision = choose_precision(recipe.precision, self.device)
        self.history: list[EpochEnd] = []

        if len(gold.train) < 2:
            raise DataError(f"{len(gold.train)} training image is too few; give the data set at least 2")
        self._normalisation = normalisation(recipe.model, gold)
        self._identity = {"fingerprint": gold.fingerprint, "recipe": recipe.model_dump(mode="json")}
        flip = flips(gold.dataset) if recipe.flip is None else recipe.flip
        self.augmentation = Augmentation.of(recipe.augmentation, flip, side=min(gold.shape[1:]))
        train, validation = gold.train, gold.validation
        self._train = ImageTensor(train.images, train.labels, self._normalisation, self.device, self.augmentation)
        self._validation = ImageTensor(validation.images, validation.labels, self._normalisation, self.device)
        # Batches of nearly equal size instead of a small one at the end: no image is left out, and batch
        # normalisation never sees a batch of one.
        self.steps_per_epoch = math.ceil(len(train) / recipe.batch_size)

        torch.manual_seed(recipe.seed * SEED_STRIDE)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self._classes, self._shape = len(gold.classes), gold.shape
        network = build(recipe.model, self._classes, self._shape)
        if self.device.type == "cpu" and self.precision is torch.float32:
            network = optimize_for_cpu(network)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self._optimizer = make_optimizer(self.network, recipe)
        # float16 gradients underflow without it; every other precision has float32's range.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self._average = WeightAverage(self.network, recipe.ema_decay) if recipe.ema_decay > 0 else None
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> EpochEnd:
        """The epoch with the highest validation accuracy; of equal ones the last, which was annealed longest."""
        return max(self.history, key=lambda end: (end.validation_accuracy, end.epoch))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs in a row brought no improvement."""
        patience, accuracies = self.recipe.patience, [epoch.validation_accuracy for epoch in self.history]
        stalled = patience > 0 and schedules.epochs_without_gain(accuracies, self.recipe.min_delta) >= patience
        return stalled or len(self.history) >= self.recipe.epochs

    def run(self) -> Iterator[BatchEnd | EpochEnd]:
        """Train until finished.

        Raises:
            RequestError: the loss is no longer a number.
        """
        while not self.finished:
            yield from self._epoch(len(self.history) + 1)

    def _epoch(self, epoch: int) -> Iterator[BatchEnd | EpochEnd]:
        torch.manual_seed(self.recipe.seed * SEED_STRIDE + epoch)
        self.network.train()
        count = len(self._train)
        loss_sum, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device, dtype=torch.int64)
        learning_rate = outside = 0.0
        started = time.perf_counter()

        batches = torch.randperm(count, device=self.device).tensor_split(self.steps_per_epoch)
        for step, index in enumerate(batches, start=(epoch - 1) * self.steps_per_epoch):
            learning_rate = self.learning_rate(step)
            set_learning_rate(self._optimizer, learning_rate)
            loss, logits, labels = self._step(index)
            if self._average is not None:
                self._average.update(self.network, step + 1)
            loss_sum += loss * len(index)
            correct += (logits.argmax(1) == labels).sum()
            logged = self.recipe.log_every > 0 and (step + 1) % self.recipe.log_every == 0
            if logged or self.device.type == "cpu":  # a GPU would have to wait for the number
                self._require_finite(loss.item(), epoch, learning_rate)
            if logged:
                yielded = time.perf_counter()
                yield BatchEnd(step + 1, epoch, loss.item(), learning_rate)
                outside += time.perf_counter() - yielded

        train_loss, train_accuracy = loss_sum.item() / count, correct.item() / count  # waits for the device
        train_seconds = time.perf_counter() - started - outside
        evaluated = self.network if self._average is None else self._average.network
        validation_loss, validation_accuracy = self._validate(evaluated)
        self._require_finite(train_loss + validation_loss, epoch, learning_rate)
        end = EpochEnd(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=learning_rate,
            images_per_second=count / train_seconds,
            epoch_seconds=time.perf_counter() - started - outside,
        )
        self.history.append(end)
        if self.best is end:
            self._best = {name: tensor.detach().clone() for name, tensor in evaluated.state_dict().items()}
        yield end

    def _step(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch; return its loss, logits and labels, on the device."""
        images, labels = self._train.batch(index)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not torch.float32):
            logits = self.network(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.recipe.gradient_clip > 0:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach(), logits.detach(), labels

    @torch.inference_mode()
    def _validate(self, network: nn.Module) -> tuple[float, float]:
        """Return mean loss and accuracy on the validation images."""
        network.eval()
        count = len(self._validation)
        loss, correct = 0.0, 0
        for index in torch.arange(count, device=self.device).tensor_split(math.ceil(count / VALIDATION_BATCH)):
            images, labels = self._validation.batch(index)
            logits = network(images)
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum().item())
        return loss / count, correct / count

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of batch `step`, counted from 0, by the recipe's schedule."""
        recipe, steps = self.recipe, self.recipe.epochs * self.steps_per_epoch
        if recipe.schedule == "one_cycle":
            return recipe.learning_rate * schedules.one_cycle(step, steps, recipe.warmup_fraction)
        if recipe.schedule == "cosine":
            return recipe.learning_rate * schedules.cosine(step, steps)
        accuracies = [epoch.validation_accuracy for epoch in self.history]
        return recipe.learning_rate * schedules.plateau(accuracies, recipe.min_delta)

    def best_classifier(self) -> Classifier:
        """Return the classifier of the best epoch, with averaged weights if the recipe asks for them, on the CPU.

        It is in evaluation mode and can be served on any machine, whatever device it was trained on.
        """
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            network = build(self.recipe.model, self._classes, self._shape)
        best = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in self._best.items()}
        network.load_state_dict(best, assign=True)
        return Classifier(network, self._normalisation.mean, self._normalisation.std).eval()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training resumes from, as tensors and plain values; valid until the next batch.

        Only between epochs: generators and schedules are not in it because each epoch starts them afresh.
        """
        return {
            "format": CHECKPOINT_FORMAT,
            "identity": self._identity,
            "history": [asdict(epoch) for epoch in self.history],
            "network": self.network.state_dict(),
            "average": self._average.network.state_dict() if self._average else {},
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`, on this device, whatever device it was saved on.

        Raises:
            DataError: the state is of another format, or of a training with another recipe or other data.
        """
        if state.get("format") != CHECKPOINT_FORMAT:
            raise DataError(
                f"checkpoint format {state.get('format')!r} is not {CHECKPOINT_FORMAT}; train from the start"
            )
        if state["identity"] != self._identity:
            raise DataError("the checkpoint belongs to a training with another recipe or other data; start a new run")
        self.history = [EpochEnd(**epoch) for epoch in state["history"]]
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.network.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}

    @staticmethod
    def _require_finite(loss: float, epoch: int, learning_rate: float) -> None:
        if not math.isfinite(loss):
            raise RequestError(
                f"the loss became {loss} in epoch {epoch} at a learning rate of {learning_rate:g}; "
                "lower learning_rate, or set gradient_clip to 1"
            )

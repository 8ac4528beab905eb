"""The training loop. Plain torch: it yields events, and the caller logs, saves or stops.

    training = Training(recipe, gold)
    for event in training.run():
        match event:
            case Reading(): ...    # while the features of pretrained weights are computed
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contract.datasets import flips
from tasks.contract.networks import Normalisation
from tasks.contract.recipe import Recipe
from tasks.errors import DataError, RequestError
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device, choose_precision
from tasks.vision.models.build import build, head_name
from tasks.vision.models.classifier import Classifier, digest_of
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training import class_balance, linear_probe, schedules
from tasks.vision.training.augment import Augmentation, ImageTensor
from tasks.vision.training.events import BatchEnd, EpochEnd, Reading
from tasks.vision.training.head_epoch import fit_head
from tasks.vision.training.kernels import optimize_for_cpu
from tasks.vision.training.mixing import make_mixing
from tasks.vision.training.optimizers import WeightAverage, make_optimizer, set_learning_rate

SEED_STRIDE = 1_000_003  # more than the epochs of any request, so that no two (seed, epoch) share a seed
VALIDATION_BATCH = 512
CHECKPOINT_FORMAT = 3


class Training:
    """One training of one network: from random or trained weights, or from a checkpoint."""

    def __init__(self, recipe: Recipe, gold: Gold, trained: Mapping[str, Tensor] | None = None) -> None:
        """Choose the device, move the images to it, make the network and its optimiser.

        Args:
            recipe: what to do. With finetune `head` and `gradual`, the first epoch fits the last layer alone.
            gold: the images.
            trained: the weights to start from, by name; needed for every finetune but `scratch`.

        Raises:
            RequestError: the requested device or precision is not available, or the network has no linear head.
            DataError: the images are too few, too small, or not what the network takes.
            ModelError: the weights are those of another network.
        """
        self.recipe = recipe
        self.device = choose_device(recipe.device)
        self.precision = choose_precision(recipe.precision, self.device)
        self.history: list[EpochEnd] = []

        if len(gold.train) < 2:
            raise DataError(f"{len(gold.train)} training image is too few; give the data set at least 2")
        self._classes = len(gold.classes)
        statistics = Normalisation(gold.mean, gold.std)
        self._preprocessing = Preprocessing.of(recipe.model, gold.shape, statistics, trained, recipe.input_side)
        enlarged = self._preprocessing.enlarge
        self._shape = gold.shape if enlarged is None else (gold.shape[0], enlarged.side, enlarged.side)
        self._identity = {
            "fingerprint": gold.fingerprint,
            "recipe": recipe.model_dump(mode="json"),
            "trained": digest_of(trained) if trained else None,
        }
        flip = flips(gold.dataset) if recipe.flip is None else recipe.flip
        self.augmentation = Augmentation.of(recipe, flip, side=min(gold.shape[1:]))
        self._mix = make_mixing(recipe.mixup, recipe.cutmix, self._classes)
        train, validation = gold.train, gold.validation
        self._train = ImageTensor(train.images, train.labels, self._preprocessing, self.device, self.augmentation)
        self._validation = ImageTensor(validation.images, validation.labels, self._preprocessing, self.device)
        self._class_weights: Tensor | None = None
        if recipe.class_balance != "none":
            self._class_weights = class_balance.class_weights(self._train.labels, self._classes)
        # Batches of nearly equal size instead of a small one at the end: no image is left out, and batch
        # normalisation never sees a batch of one.
        self.steps_per_epoch = math.ceil(len(train) / recipe.batch_size)

        torch.manual_seed(recipe.seed * SEED_STRIDE)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        network = build(recipe.model, self._classes, self._shape, trained)
        self._head = head_name(network, self._classes) if self._fits_head else ""
        if self._fits_head:
            linear_probe.head_of(network, self._head)
        if recipe.finetune == "head":
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.startswith(f"{self._head}."))
        if self.device.type == "cpu" and self.precision is torch.float32:
            network = optimize_for_cpu(network)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self._optimizer = make_optimizer(self.network, recipe)
        # float16 gradients underflow without it; every other precision has float32's range.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self._average = WeightAverage(self.network, recipe.ema_decay) if recipe.ema_decay > 0 else None
        self._best: dict[str, Tensor] = {}

    @property
    def _fits_head(self) -> bool:
        """Whether the first epoch fits the last layer alone."""
        return self.recipe.finetune in ("head", "gradual")

    @property
    def best(self) -> EpochEnd:
        """The epoch with the highest validation accuracy; of equal ones the last, which was annealed longest."""
        return max(self.history, key=lambda end: (end.validation_accuracy, end.epoch))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs in a row brought no improvement."""
        patience, accuracies = self.recipe.patience, [epoch.validation_accuracy for epoch in self.history]
        stalled = patience > 0 and schedules.epochs_without_gain(accuracies, self.recipe.min_delta) >= patience
        return stalled or len(self.history) >= (1 if self.recipe.finetune == "head" else self.recipe.epochs)

    def run(self) -> Iterator[Reading | BatchEnd | EpochEnd]:
        """Train until finished.

        Raises:
            RequestError: the loss is no longer a number.
        """
        while not self.finished:
            epoch = len(self.history) + 1
            yield from self._head_epoch() if epoch == 1 and self._fits_head else self._epoch(epoch)

    def _head_epoch(self) -> Iterator[Reading | EpochEnd]:
        """Compute the features of all images once, and fit the last layer to them."""
        started = time.perf_counter()
        fitting = fit_head(
            self.network,
            self._head,
            self._train,
            self._validation,
            self._class_weights,
            only=self.recipe.finetune == "head",
        )
        for event in fitting:
            if isinstance(event, Reading):
                yield event
            else:
                probe = event
        if self._average is not None:
            self._average = WeightAverage(self.network, self.recipe.ema_decay)
        seconds = time.perf_counter() - started
        end = EpochEnd(
            epoch=1,
            train_loss=probe.train_loss,
            train_accuracy=probe.train_accuracy,
            validation_loss=probe.validation_loss,
            validation_accuracy=probe.validation_accuracy,
            learning_rate=0.0,
            images_per_second=len(self._train) / seconds,
            epoch_seconds=seconds,
        )
        self._finish(end, self.network)
        yield end

    def _epoch(self, epoch: int) -> Iterator[Reading | BatchEnd | EpochEnd]:
        torch.manual_seed(self.recipe.seed * SEED_STRIDE + epoch)
        self.network.train()
        if self.recipe.finetune != "scratch":
            _freeze_statistics(self.network)
        count = len(self._train)
        loss_sum, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device, dtype=torch.int64)
        learning_rate = outside = 0.0
        started = time.perf_counter()

        if self.recipe.class_balance == "sampler":
            order = class_balance.balanced_order(self._train.labels)
        else:
            order = torch.randperm(count, device=self.device)
        batches = order.tensor_split(self.steps_per_epoch)
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
        self._finish(end, evaluated)
        yield end

    def _finish(self, end: EpochEnd, evaluated: nn.Module) -> None:
        """Add an epoch to the history, and keep its weights if they are the best so far."""
        self.history.append(end)
        if self.best is end:
            self._best = {name: tensor.detach().clone() for name, tensor in evaluated.state_dict().items()}

    def _step(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch; return its loss, logits and labels, on the device."""
        images, targets = self._mix(*self._train.batch(index))
        weights = self._class_weights if self.recipe.class_balance == "weights" else None
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not torch.float32):
            logits = self.network(images)
            loss = class_balance.loss(logits, targets, self.recipe.label_smoothing, weights)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.recipe.gradient_clip > 0:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach(), logits.detach(), targets if targets.ndim == 1 else targets.argmax(1)

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
        recipe = self.recipe
        before = self.steps_per_epoch if self._fits_head else 0  # the first epoch, which needs no learning rate
        step, steps = step - before, recipe.epochs * self.steps_per_epoch - before
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
        with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once
            network = build(self.recipe.model, self._classes, self._shape)
        best = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in self._best.items()}
        network.load_state_dict(best, assign=True)
        prepared = self._preprocessing
        return Classifier(network, prepared.mean, prepared.std, prepared.enlarge).eval()

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


def _freeze_statistics(network: nn.Module) -> None:
    """Let batch normalisation use the statistics that it has: those of a million images beat those of a batch of 32."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()

"""One epoch: a step for each batch, in an order that follows from seed and epoch, and the validation after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from tasks.contract.recipe import Recipe
from tasks.vision.data.gold import Split
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.data_wait import DataWait
from tasks.vision.training.events import BatchEnd, EpochEnd, Pause
from tasks.vision.training.learner import Learner, require_finite
from tasks.vision.training.order import epoch_batches
from tasks.vision.training.position import Position
from tasks.vision.training.validation import validate

SEED_STRIDE = 1_000_003  # more than the epochs of any request, so that no two (seed, epoch) share a seed
PAUSE_SECONDS = 60.0


class Epochs:
    """Runs the epochs of a training, one at a time.

    Attributes:
        position: in an epoch, while a checkpoint can be made of it or goes on from it.
    """

    def __init__(
        self,
        recipe: Recipe,
        split: Split,
        learner: Learner,
        train: ImageTensor,
        validation: ImageTensor,
        steps: int,
    ) -> None:
        """Take what all epochs have in common.

        Args:
            recipe: what to do.
            split: the training images, as they are stored.
            learner: what is trained.
            train: the training images on their device.
            validation: the validation images.
            steps: batches of an epoch.
        """
        self.position: Position | None = None
        self._recipe, self._split, self._learner, self._steps = recipe, split, learner, steps
        self._train, self._validation = train, validation
        self._replicas, self._device = train.replicas, train.labels.device

    def run(self, epoch: int, learning_rate_of: Callable[[int], float]) -> Iterator[BatchEnd | Pause | EpochEnd]:
        """Train for one epoch, or for what is left of it after `position`.

        Args:
            epoch: from 1.
            learning_rate_of: the learning rate of a batch, counted from 0 since the start of training.

        Raises:
            RequestError: the loss is no longer a number.
        """
        recipe, replicas, device = self._recipe, self._replicas, self._device
        torch.manual_seed(recipe.seed * SEED_STRIDE + epoch)
        self._learner.begin_epoch()
        learning_rate = outside = 0.0
        started = paused = time.perf_counter()

        batches = epoch_batches(
            self._split,
            self._train.labels,
            self._steps,
            balanced=recipe.class_balance == "sampler",
            one_size=device.type == "cuda",
        )
        count = sum(map(len, batches))
        position = self.position or Position.start(device)
        position.restore_random()
        self.position, left, waited = None, batches[position.steps :], DataWait(device)
        first = (epoch - 1) * self._steps + position.steps
        for step, (index, batch) in enumerate(zip(left, waited.over(self._train.read(left)), strict=True), first):
            learning_rate = learning_rate_of(step)
            weight = replicas.weight(len(batch[1]), len(index))
            loss, logits, labels = self._learner.step(*batch, learning_rate, step + 1, weight)
            position.loss_sum += loss * len(labels)
            position.correct += (logits.argmax(1) == labels).sum()
            position.steps += 1
            logged = recipe.log_every > 0 and (step + 1) % recipe.log_every == 0
            if logged or device.type == "cpu":  # a GPU would have to wait for the number
                require_finite(loss.item(), epoch, learning_rate)
            if logged:
                loss = replicas.total(loss * weight) / replicas.size
                yielded = time.perf_counter()
                yield BatchEnd(step + 1, epoch, loss.item(), learning_rate)
                outside += time.perf_counter() - yielded
            due = time.perf_counter() - paused >= PAUSE_SECONDS
            if position.steps < len(batches) and replicas.any(due, position.steps, device):
                position.collect(replicas)
                self._learner.gather_statistics()
                yielded, self.position = time.perf_counter(), position
                yield Pause(step + 1)
                self.position, paused = None, time.perf_counter()
                outside += paused - yielded

        # Waits for the device.
        loss_sum, correct = position.collect(replicas)
        train_loss, train_accuracy = loss_sum.item() / count, correct.item() / count
        train_seconds = time.perf_counter() - started - outside
        self._learner.gather_statistics()
        validation_loss, validation_accuracy = validate(self._learner.evaluated, self._validation)
        require_finite(train_loss + validation_loss, epoch, learning_rate)
        yield EpochEnd(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=learning_rate,
            images_per_second=sum(map(len, left)) / train_seconds,
            epoch_seconds=time.perf_counter() - started - outside,
            data_wait_share=replicas.largest(waited.share(train_seconds), device),
        )

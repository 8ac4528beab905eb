"""The training loop. Plain torch: it yields events, and the caller logs, saves or stops.

    training = Training(recipe, gold)
    for event in training.run():
        match event:
            case Reading(): ...    # while the features of pretrained weights are computed
            case BatchEnd(): ...   # every `log_every` batches
            case HeadFitted(): ... # these features, once they are complete
            case Pause(): ...      # now and then, between batches; training.state_dict() is a complete checkpoint here
            case EpochEnd(): ...   # and here
    training.best_classifier()

Fast on a CPU: images stay in memory as uint8, or are read ahead from disk; augmentation works on whole batches,
convolutions get channels_last memory and faster gradients, the optimiser updates all weights in one kernel. Measured in
docs/benchmarks/training.md.
On an NVIDIA GPU, passes are recorded as CUDA graphs (`graphs`), and all batches have one size.

Exact: every epoch seeds torch from (seed, epoch), and order and learning rates are functions of seed, epoch, step and
history. A training resumed from a checkpoint, also from one in the middle of an epoch, goes on with the very next batch
and ends with the same bits as one without an interruption, on the same CPU with as many threads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contract.datasets import flips
from tasks.contract.networks import Normalisation
from tasks.contract.recipe import Recipe
from tasks.errors import DataError
from tasks.vision.data.gold import Gold
from tasks.vision.devices import choose_device, choose_precision
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest, digest_of
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training import head_epoch, schedules
from tasks.vision.training.augment import Augmentation, ImageTensor
from tasks.vision.training.distillation import Distillation, Teacher
from tasks.vision.training.epoch import SEED_STRIDE, Epochs
from tasks.vision.training.events import EpochEnd, Event, HeadFitted, Reading
from tasks.vision.training.head_epoch import prepare_head
from tasks.vision.training.kernels import optimize_for_cpu
from tasks.vision.training.learner import Learner
from tasks.vision.training.position import Position
from tasks.vision.training.replicas import Replicas, require_enough
from tasks.vision.training.validation import predict

CHECKPOINT_FORMAT = 3  # between epochs, as in the releases that saved nowhere else
MIDDLE_FORMAT = 4  # in the middle of one
SHARES = "data_wait_shares"  # in a checkpoint: of each epoch of its history
FORMATS = (CHECKPOINT_FORMAT, MIDDLE_FORMAT)


class Training:
    """One training of one network: from random or trained weights, or from a checkpoint."""

    runs_here = True  # in this process

    def __init__(
        self,
        recipe: Recipe,
        gold: Gold,
        trained: Mapping[str, Tensor] | None = None,
        *,
        classifier: Classifier | None = None,
        distillation: Distillation | None = None,
        replicas: Replicas | None = None,
        micro_batches: int = 1,
    ) -> None:
        """Choose the device, move the images to it, make the network and its optimiser.

        Args:
            recipe: what to do. With finetune `head` and `gradual`, the first epoch fits the last layer alone.
            gold: the images.
            trained: the weights to start from, by name; needed for every finetune but `scratch`. Those of a
                `Classifier` also say how its images were normalised.
            classifier: one whose network is trained on, with the weights and the normalisation that it has, instead of
                the network that the recipe names; a copy of it.
            distillation: the classifier that the network learns from, besides the labels.
            replicas: those that train together, in as many processes; this one is alone by default.
            micro_batches: see `Learner`. A checkpoint fits any number of them.

        Raises:
            RequestError: the requested device or precision is not available, the network has no linear head, or there
                are more replicas, or parts of a batch, than its images allow.
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
        stored = trained if classifier is None else classifier.state_dict()
        self._preprocessing = Preprocessing.of(recipe.model, gold.shape, statistics, stored, recipe.input_side)
        enlarged = self._preprocessing.enlarge
        self._shape = gold.shape if enlarged is None else (gold.shape[0], enlarged.side, enlarged.side)
        self._identity = {
            "fingerprint": gold.fingerprint,
            "recipe": recipe.model_dump(mode="json"),
            "trained": digest_of(trained) if trained else None,
            # A checkpoint of an earlier release has neither.
            **({"classifier": digest(classifier)} if classifier else {}),
            **({"distillation": distillation.identity} if distillation else {}),
        }
        flip = flips(gold.dataset) if recipe.flip is None else recipe.flip
        self.augmentation = Augmentation.of(recipe, flip, side=min(gold.shape[1:]))
        train, validation, where = gold.train, gold.validation, (self._preprocessing, self.device)
        self._replicas = replicas or Replicas()
        self.steps_per_epoch = math.ceil(len(train) / recipe.batch_size)
        self.micro_batches, smallest = micro_batches, len(train) // self.steps_per_epoch
        require_enough(self._replicas.size, smallest, len(validation), micro_batches)
        augmentation = self.augmentation
        self.train_images = ImageTensor(train.images, train.labels, *where, augmentation, self._replicas)
        self.validation_images = ImageTensor(validation.images, validation.labels, *where, replicas=self._replicas)

        torch.manual_seed(recipe.seed * SEED_STRIDE)
        self._given = None if classifier is None else classifier.network
        if self._given is None:
            network = build(recipe.model, self._classes, self._shape, trained)
        else:
            network = copy.deepcopy(self._given)
        self.head = prepare_head(network, self._classes, only=recipe.finetune == "head") if self.fits_head else ""
        if self.device.type == "cpu" and self.precision is torch.float32:
            network = optimize_for_cpu(network)
        network = network.to(self.device).to(memory_format=torch.channels_last)
        teacher = None
        if distillation is not None:
            teacher = Teacher(distillation, self._preprocessing).to(self.device).to(memory_format=torch.channels_last)
        self.learner = Learner(
            network,
            recipe,
            self.precision,
            self._classes,
            self.train_images.labels,
            teacher,
            self._replicas,
            micro_batches,
        )
        images = (self.train_images, self.validation_images)
        self._epochs = Epochs(recipe, train, self.learner, *images, self.steps_per_epoch)
        self._best: dict[str, Tensor] = {}

    @property
    def network(self) -> nn.Module:
        """The network as it is now."""
        return self.learner.network

    @property
    def fits_head(self) -> bool:
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

    @property
    def steps_done(self) -> int:
        """Batches since the start of training, as far as a checkpoint has them."""
        return len(self.history) * self.steps_per_epoch + (self._epochs.position.steps if self._epochs.position else 0)

    def run(self) -> Generator[Event, None, None]:
        """Train until finished.

        Raises:
            RequestError: the loss is no longer a number.
        """
        while not self.finished:
            epoch = len(self.history) + 1
            head = epoch == 1 and self.fits_head
            for event in self._head_epoch() if head else self._epochs.run(epoch, self.learning_rate):
                if isinstance(event, EpochEnd):
                    self._finish(event)
                yield event

    def _head_epoch(self) -> Iterator[Reading | HeadFitted | EpochEnd]:
        """Fit the last layer alone."""
        only = self.recipe.finetune == "head"
        return head_epoch.run(self.learner, self.head, self.train_images, self.validation_images, only=only)

    def _finish(self, end: EpochEnd) -> None:
        """Add an epoch to the history, and keep its weights if they are the best so far."""
        self.history.append(end)
        if self.best is end:
            self._best = {name: tensor.detach().clone() for name, tensor in self.learner.evaluated.state_dict().items()}

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of batch `step`, counted from 0, by the recipe's schedule."""
        before = self.steps_per_epoch if self.fits_head else 0  # the first epoch, which needs no learning rate
        steps = self.recipe.epochs * self.steps_per_epoch - before
        accuracies = [epoch.validation_accuracy for epoch in self.history]
        return schedules.learning_rate(self.recipe, step - before, steps, accuracies)

    def best_classifier(self) -> Classifier:
        """Return the classifier of the best epoch, with averaged weights if the recipe asks for them, on the CPU.

        It is in evaluation mode and can be served on any machine, whatever device it was trained on.
        """
        if self._given is not None:
            network = copy.deepcopy(self._given)
        else:
            with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once
                network = build(self.recipe.model, self._classes, self._shape)
        best = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in self._best.items()}
        network.load_state_dict(best, assign=True)
        prepared = self._preprocessing
        return Classifier(network, prepared.mean, prepared.std, prepared.enlarge).eval()

    def validation_probabilities(self) -> Tensor:
        """Return what the network of the best epoch gives to the validation images, float32 [N, classes] on the CPU."""
        network = copy.deepcopy(self.learner.evaluated)
        network.load_state_dict(self._best)
        return predict(network, self.validation_images).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training resumes from, as tensors and plain values; valid until the next batch.

        Only at a `Pause` and between epochs: each epoch starts generators and schedules afresh.
        """
        position = self._epochs.position
        history = [asdict(epoch) for epoch in self.history]
        shares = [epoch.pop("data_wait_share") for epoch in history]  # apart: earlier releases know no such field
        return {
            "format": MIDDLE_FORMAT if position else CHECKPOINT_FORMAT,
            **({"position": position.state_dict()} if position else {}),
            "identity": self._identity,
            "history": history,
            SHARES: shares,
            **self.learner.state_dict(),
            "best": self._best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`, on this device, whatever device it was saved on.

        Raises:
            DataError: the state is of another format, or of a training with another recipe or other data.
        """
        if state.get("format") not in FORMATS:
            raise DataError(f"checkpoint format {state.get('format')!r} is none of {FORMATS}; train from the start")
        if state["identity"] != self._identity:
            raise DataError("the checkpoint belongs to a training with another recipe or other data; start a new run")
        shares = state.get(SHARES) or [None] * len(state["history"])  # of an earlier release
        self.history = [
            EpochEnd(**epoch, data_wait_share=share) for epoch, share in zip(state["history"], shares, strict=True)
        ]
        self.learner.load_state_dict(state)
        self._best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        position = Position.of(state["position"], self.device) if "position" in state else None
        if position is not None and self._replicas.rank > 0:
            position.clear_sums()
        self._epochs.position = position

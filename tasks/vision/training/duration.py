"""How long a training will take: measured before it starts, with a few batches on a copy of the network."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.vision.devices import images_at_once
from tasks.vision.training import linear_probe
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.head_epoch import mirrors
from tasks.vision.training.learner import Learner
from tasks.vision.training.loop import Training

FEWEST_BATCHES = 20  # of fewer, those that are measured would be a noticeable share
STEPS_PER_REPEAT = 50  # one more step is measured for so many to come, so that measuring takes 3 % at most
REPEATS = 10
ENOUGH_SECONDS = 0.5  # of measuring one thing
PROBED_ROWS = 2_000
PROBE_EVALUATIONS = 150  # of the loss, until the last layer is fitted; measured: 90 to 200

log = logging.getLogger("tasks.train")


@dataclass(frozen=True)
class Duration:
    """What is left of a training.

    Attributes:
        head: seconds that fitting the last layer takes; 0: that is done, or not part of the training.
        epochs: how many train all layers.
        steps: in each of them.
        step: seconds of a step.
        validation: seconds of the validation after each epoch.
    """

    head: float
    epochs: int
    steps: int
    step: float
    validation: float

    @property
    def seconds(self) -> float:
        """All in all."""
        return self.head + self.epochs * (self.steps * self.step + self.validation)

    def __str__(self) -> str:
        """As in "about 4 min (last layer 12 s, then 13 epochs of 27 steps at 0.59 s)"."""
        head = [f"last layer {text_of(self.head)}"] if self.head else []
        epochs = [f"{self.epochs} epochs of {self.steps} steps at {self.step:.2g} s"] if self.epochs else []
        return f"about {text_of(self.seconds)} ({', then '.join(head + epochs)})"


def text_of(seconds: float) -> str:
    """Return a duration in seconds, or in minutes from two minutes on."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def estimate(training: Training) -> Duration | None:
    """Estimate how long the rest of a training takes, if it runs to its last epoch; its bits stay as they are.

    Returns:
        None where measuring is not worth its time, or not possible in the memory that is left.
    """
    recipe, done = training.recipe, len(training.history)
    fits_head = training.fits_head and done == 0
    epochs = 0 if recipe.finetune == "head" else recipe.epochs - done - fits_head
    steps = epochs * training.steps_per_epoch
    batches = steps + (training.steps_per_epoch if fits_head else 0)
    if training.finished or batches < FEWEST_BATCHES:
        return None
    cuda = [training.device.index or 0] if training.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            learner = copy.deepcopy(training.learner)
            step = _step_seconds(learner, training.train_images, training.steps_per_epoch, steps) if steps else 0.0
            image = _image_seconds(learner, training.validation_images)
            head = _head_seconds(training, image) if fits_head else 0.0
    except torch.OutOfMemoryError:
        log.info("no estimate of the time: it needs more memory than is left")
        return None
    return Duration(head, epochs, training.steps_per_epoch, step, len(training.validation_images) * image)


def _step_seconds(learner: Learner, images: ImageTensor, steps_per_epoch: int, steps: int) -> float:
    index = torch.arange(len(images), device=images.labels.device).tensor_split(steps_per_epoch)[0]
    learner.begin_epoch()
    # The first step takes longer, but where few are to come it has to do.
    return _seconds(lambda: learner.step(*images.batch(index), 0.0, 1)[0], steps // STEPS_PER_REPEAT)


@torch.inference_mode()
def _image_seconds(learner: Learner, images: ImageTensor) -> float:
    """Measure an image on its way through the network alone, as in validation."""
    device = images.labels.device
    batch = min(len(images), images_at_once(images.values, device))
    index = torch.arange(batch, device=device)
    network = learner.evaluated.eval()
    return _seconds(lambda: network(images.batch(index)[0]).sum(), 1) / batch


def _head_seconds(training: Training, image: float) -> float:
    """Seconds to compute the features of all images, and to fit the last layer to them."""
    fitted = len(training.train_images) * (
        2 if mirrors(training.train_images, only=training.recipe.finetune == "head") else 1
    )
    head = linear_probe.head_of(training.network, training.head)
    rows = min(fitted, PROBED_ROWS)
    values = torch.zeros(rows, head.in_features, device=training.device)
    labels = torch.zeros(rows, dtype=torch.int64, device=training.device)
    layer = torch.zeros(head.out_features, head.in_features + 1, device=training.device, requires_grad=True)
    evaluation = _seconds(lambda: linear_probe.penalised_loss(layer, values, labels, 1.0), 3)
    probe = PROBE_EVALUATIONS * evaluation * fitted / rows
    return (fitted + len(training.validation_images)) * image + probe


def _seconds(work: Callable[[], Tensor], repeats: int) -> float:
    """Measure `work` once to warm up, and then up to `repeats` times; return the shortest of these."""
    first = _timed(work)
    if repeats == 0:
        return first
    taken: list[float] = []
    while len(taken) < min(repeats, REPEATS) and (len(taken) < 2 or sum(taken) < ENOUGH_SECONDS):
        taken.append(_timed(work))
    return min(taken)


def _timed(work: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    work().item()  # waits for the device
    return time.perf_counter() - started

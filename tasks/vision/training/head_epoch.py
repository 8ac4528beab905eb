"""The epoch that trains the last layer alone: features of all images, and a linear layer fitted to them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tasks.vision.devices import images_at_once
from tasks.vision.models.build import head_name
from tasks.vision.training import linear_probe
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.data_wait import DataWait
from tasks.vision.training.events import EpochEnd, HeadFitted, Reading
from tasks.vision.training.learner import Learner
from tasks.vision.training.linear_probe import Features, Probe

BATCH = 128


def prepare_head(network: nn.Module, classes: int, *, only: bool) -> str:
    """Return the name of a network's last layer; with `only`, freeze all others.

    Raises:
        RequestError: the network does not end with a linear layer.
    """
    name = head_name(network, classes)
    linear_probe.head_of(network, name)
    if only:
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter_name.startswith(f"{name}."))
    return name


def mirrors(train: ImageTensor, *, only: bool) -> bool:
    """Whether mirrored images count too, when nothing else will be trained."""
    return only and train.augmentation.flip


def run(
    learner: Learner, name: str, train: ImageTensor, validation: ImageTensor, *, only: bool
) -> Iterator[Reading | HeadFitted | EpochEnd]:
    """Compute the features of all images once, and fit the last layer of the learner's network to them.

    Args:
        learner: what is trained; its average of weights begins anew.
        name: of the last layer.
        train: the training images; their augmentation is not used.
        validation: the images that choose how strongly the layer is held back.
        only: nothing else will be trained. Then mirrored images count too, and once everything is chosen, the
            validation images, which no later epoch needs.
    """
    device = train.labels.device
    started, outside, waited = time.perf_counter(), 0.0, DataWait(device)
    for event in _fit_head(learner.network, name, train, validation, learner.class_weights, waited, only=only):
        if isinstance(event, Probe):
            probe = event
        else:
            yielded = time.perf_counter()
            yield event
            outside += time.perf_counter() - yielded
    learner.restart_average()
    seconds = time.perf_counter() - started - outside
    yield EpochEnd(
        epoch=1,
        train_loss=probe.train_loss,
        train_accuracy=probe.train_accuracy,
        validation_loss=probe.validation_loss,
        validation_accuracy=probe.validation_accuracy,
        learning_rate=0.0,
        images_per_second=len(train) / seconds,
        epoch_seconds=seconds,
        data_wait_share=train.replicas.largest(waited.share(seconds), device),
    )


def _fit_head(
    network: nn.Module,
    name: str,
    train: ImageTensor,
    validation: ImageTensor,
    class_weights: Tensor | None,
    waited: DataWait,
    *,
    only: bool,
) -> Iterator[Reading | HeadFitted | Probe]:
    """Fit the last layer of a network, in place, as `run` says; the last event is what was found.

    Args:
        network: the network.
        name: of its last layer.
        train: the training images.
        validation: the validation images.
        class_weights: how much the images of each class count [classes]; None: all alike.
        waited: measures how long the images take to come.
        only: nothing else will be trained.
    """
    head = linear_probe.head_of(network, name)
    sources = [validation, train]
    if mirrors(train, only=only):
        sources.append(train.mirrored())
    found, done, total = [], 0, sum(map(len, sources))
    for images in sources:
        parts = []
        replicas = images.replicas
        size = min(BATCH, images_at_once(images.values, images.labels.device))
        for part in linear_probe.features(network, head, waited.over(images.batches(size))):
            parts.append(part)
            done = min(done + len(part.labels) * replicas.size, total)  # the others are as far
            yield Reading(done, total)
        own = linear_probe.join(parts)
        found.append(Features(replicas.gather(own.values), replicas.gather(own.labels)))
    probe = linear_probe.fit(linear_probe.join(found[1:]), found[0], head.out_features, class_weights)
    yield HeadFitted(found[1], found[0], probe, class_weights)
    if only:
        probe = linear_probe.refit(probe, linear_probe.join(found), head.out_features, class_weights)
    with torch.no_grad():
        head.weight.copy_(probe.weight)
        if head.bias is not None:
            head.bias.copy_(probe.bias)
        validation.replicas.average(list(head.parameters()))  # found by all, but perhaps not to the same bits
    yield probe

"""What a linear probe answers to its own training images when it has not seen them: cross-validation."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from tasks.vision.training import linear_probe
from tasks.vision.training.linear_probe import Features, Probe

FOLDS, FEWER_FOLDS = 5, 3
MANY_IMAGES = 20_000  # from here on, layers fitted to two thirds of them are as good


def probabilities(
    train: Features, probe: Probe, weights: Tensor | None, seed: int, most_seconds: float
) -> Tensor | None:
    """Return probabilities, float32 [N, classes], each row by a layer that was fitted without that image.

    The folds hold each class in equal parts. Each layer is found from `probe`, which is near; where it ends does not
    depend on where it starts, because the loss has one minimum.

    Args:
        train: the features of the training images.
        probe: the layer for all of them, with its penalty.
        weights: how much the images of each class count, float32 [classes]; None: all alike.
        seed: of the folds.
        most_seconds: that it may take.

    Returns:
        None where the first fold shows that it would take longer.
    """
    folds = FOLDS if len(train.labels) < MANY_IMAGES else FEWER_FOLDS
    fold_of = stratified(train.labels, folds, seed)
    found = torch.empty(len(train.labels), len(probe.bias), device=train.values.device)
    started = time.perf_counter()
    for fold in range(folds):
        held_out = fold_of == fold
        known = Features(train.values[~held_out], train.labels[~held_out])
        found[held_out] = linear_probe.fit_again(probe, known, train.values[held_out], weights)
        if fold == 0 and (time.perf_counter() - started) * folds > most_seconds:
            return None
    return found


def stratified(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Give each image a fold, int64 [N] from 0 on, so that every class is spread over all of them."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    fold_of = torch.empty_like(labels)
    fold_of[by_class] = torch.arange(len(labels), device=labels.device) % folds
    return fold_of

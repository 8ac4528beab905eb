"""Suspected wrong labels among the images that a network is trained on and validated with.

A model suspects nothing of what it has learnt by heart. Where the last layer of a pretrained network is fitted, the
features of all images are at hand, and layers for cross-validation cost seconds. Elsewhere it would mean to train again
and again: there only the validation images are looked at.
"""

from __future__ import annotations

import logging

import torch

from tasks.vision.data.gold import Gold
from tasks.vision.evaluation.suspected_labels import Suspect, find
from tasks.vision.training import cross_validation
from tasks.vision.training.events import HeadFitted
from tasks.vision.training.loop import Training

log = logging.getLogger("tasks.train")


def by_features(fitted: HeadFitted, gold: Gold, seed: int, most_seconds: float) -> list[Suspect]:
    """Look at training and validation images by the features of a pretrained network, the most suspicious first.

    Args:
        fitted: what the training said of the features.
        gold: the images.
        seed: of the folds of the cross-validation.
        most_seconds: for the training images; where it would take longer, they are left out, and the log says it.
    """
    probe, validation, train = fitted.probe, fitted.validation, fitted.train
    answers = torch.nn.functional.linear(validation.values, probe.weight, probe.bias).softmax(1)
    found = find("validation", gold.validation, answers.cpu().numpy())
    crossed = cross_validation.probabilities(train, probe, fitted.class_weights, seed, most_seconds)
    if crossed is None:
        log.info("labels of training images are not checked: that would take over %.0f s", most_seconds)
    else:
        found += find("train", gold.train, crossed.cpu().numpy())
    return sorted(found, key=lambda one: one.score)


def by_best_network(training: Training, gold: Gold) -> list[Suspect]:
    """Look at the validation images by the network of the best epoch, the most suspicious first."""
    return find("validation", gold.validation, training.validation_probabilities().numpy())

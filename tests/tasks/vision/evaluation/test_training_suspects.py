from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contract.recipe import Recipe
from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation import training_suspects
from tasks.vision.models.build import build
from tasks.vision.training.events import HeadFitted
from tasks.vision.training.loop import Training

WRONG = {"train": [7, 33], "validation": [4, 27, 50]}


def make_split(name: str, count: int, classes: int = 3) -> Split:
    """Images of one brightness for each class, with a little noise; a few have the label of another class."""
    truth = np.arange(count) % classes
    noise = np.random.default_rng(count).integers(-15, 15, (count, 1, 8, 8))
    images = (truth[:, None, None, None] * 80 + 40 + noise).astype(np.uint8)
    labels = truth.astype(np.int64)
    labels[WRONG[name]] = (labels[WRONG[name]] + 1) % classes
    return Split(images, labels, tuple(f"{name}/{i}.png" for i in range(count)))


@pytest.fixture(scope="module")
def gold() -> Gold:
    train, validation = make_split("train", 90), make_split("validation", 60)
    return Gold(train, validation, validation, ("a", "b", "c"), (0.4,), (0.3,), "f" * 64, "digits")


@pytest.fixture(scope="module")
def trained(gold: Gold) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build("fast_cnn", 3, gold.shape).state_dict()


def recipe(finetune: str, **changes: object) -> Recipe:
    base = {"epochs": 3, "batch_size": 10, "device": "cpu", "log_every": 0, "learning_rate": 0.05, "augmentation": 0.0}
    return Recipe.model_validate({**base, "finetune": finetune, **changes})


@pytest.fixture(scope="module")
def fitted(gold: Gold, trained: dict[str, Tensor]) -> HeadFitted:
    return next(e for e in Training(recipe("head"), gold, trained).run() if isinstance(e, HeadFitted))


def test_wrong_labels_of_both_splits_are_found_by_features(fitted: HeadFitted, gold: Gold) -> None:
    found = training_suspects.by_features(fitted, gold, seed=0, most_seconds=60)
    for name, wrong in WRONG.items():
        assert {one.index for one in found if one.split == name} == set(wrong)
    assert [one.score for one in found] == sorted(one.score for one in found)
    worst = found[0]
    split = gold.splits[worst.split]
    assert (worst.name, worst.label) == (split.names[worst.index], split.labels[worst.index])


def test_validation_images_alone_are_left_where_time_is_short(
    fitted: HeadFitted, gold: Gold, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = training_suspects.by_features(fitted, gold, seed=0, most_seconds=0)
    assert sorted((one.split, one.index) for one in found) == [("validation", index) for index in WRONG["validation"]]
    assert "labels of training images are not checked: that would take over 0 s" in caplog.messages


def test_the_probe_that_judges_validation_images_has_not_seen_them(gold: Gold, trained: dict[str, Tensor]) -> None:
    """With finetune=head the layer that is kept has learnt from them."""
    training = Training(recipe("head"), gold, trained)
    fitted = next(e for e in training.run() if isinstance(e, HeadFitted))
    other = dataclasses.replace(
        gold, validation=Split(gold.validation.images, np.zeros_like(gold.validation.labels), gold.validation.names)
    )
    again = next(e for e in Training(recipe("head"), other, trained).run() if isinstance(e, HeadFitted))
    if fitted.probe.penalty == again.probe.penalty:
        assert torch.equal(fitted.probe.weight, again.probe.weight)
    list(training.run())
    assert not torch.equal(training.network.get_parameter("classifier.weight"), fitted.probe.weight)


def test_the_best_network_judges_validation_images_where_no_features_are(gold: Gold) -> None:
    training = Training(recipe("scratch", epochs=6), gold)
    list(training.run())
    found = training_suspects.by_best_network(training, gold)
    assert sorted((one.split, one.index) for one in found) == [("validation", index) for index in WRONG["validation"]]
    classifier = training.best_classifier()
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(gold.validation.images))
    torch.testing.assert_close(training.validation_probabilities(), expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_validation_images_are_no_obstacle(gold: Gold, trained: dict[str, Tensor], count: int) -> None:
    validation = gold.validation
    few = Split(validation.images[:count], validation.labels[:count], validation.names[:count])
    small = dataclasses.replace(gold, validation=few)
    fitted = next(e for e in Training(recipe("head"), small, trained).run() if isinstance(e, HeadFitted))
    assert all(one.split == "train" or one.index < count for one in training_suspects.by_features(fitted, small, 0, 60))


def test_classes_without_images_are_no_obstacle(gold: Gold, trained: dict[str, Tensor]) -> None:
    kept = gold.train.labels != 1
    few = Split(gold.train.images[kept], gold.train.labels[kept], tuple(np.array(gold.train.names)[kept]))
    lacking = dataclasses.replace(gold, train=few)
    fitted = next(e for e in Training(recipe("head"), lacking, trained).run() if isinstance(e, HeadFitted))
    assert training_suspects.by_features(fitted, lacking, 0, 60) is not None

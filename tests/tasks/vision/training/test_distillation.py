from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contract.networks import Normalisation
from tasks.contract.recipe import Recipe
from tasks.errors import DataError
from tasks.vision.data.gold import Gold
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, Enlargement, digest
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training.distillation import Distillation, Teacher
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold(400, 200, 20)


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({"epochs": 6, "batch_size": 20, "device": "cpu", "log_every": 0} | changes)


@pytest.fixture(scope="module")
def teacher(gold: Gold) -> Classifier:
    training = Training(recipe(epochs=8), gold)
    list(training.run())
    assert training.best.validation_accuracy > 0.8
    return training.best_classifier()


def with_wrong_labels(gold: Gold) -> Gold:
    """The same images with labels that say nothing about them."""
    labels = np.random.default_rng(0).permutation(gold.train.labels)
    return dataclasses.replace(gold, train=dataclasses.replace(gold.train, labels=labels))


def accuracy(gold: Gold, distillation: Distillation | None, **changes: object) -> float:
    training = Training(recipe(**changes), gold, distillation=distillation)
    list(training.run())
    return training.best.validation_accuracy


def test_a_student_learns_from_its_teacher_what_the_labels_do_not_say(gold: Gold, teacher: Classifier) -> None:
    wrong = with_wrong_labels(gold)
    assert accuracy(wrong, None) < 0.4
    assert accuracy(wrong, Distillation(teacher, temperature=4.0, share=1.0)) > 0.7


def test_teaching_leaves_the_teacher_as_it_is(gold: Gold, teacher: Classifier) -> None:
    before = digest(teacher)
    training = Training(recipe(epochs=1), gold, distillation=Distillation(teacher, 2.0, 0.5))
    list(training.run())
    assert digest(teacher) == before
    assert not teacher.network.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(training.state_dict()["network"]) == set(training.network.state_dict())  # no teacher in a checkpoint


@pytest.mark.parametrize(
    ("teacher_side", "student_side"), [(None, None), (16, None), (16, 16), (None, 16), (16, 12), (12, 16)]
)
def test_a_teacher_sees_the_pixels_that_the_student_sees(
    gold: Gold, teacher_side: int | None, student_side: int | None
) -> None:
    """Whatever both of them make of these: other normalisations, other sizes."""
    torch.manual_seed(0)
    enlarge = Enlargement(teacher_side) if teacher_side else None
    side = teacher_side or 8
    classifier = Classifier(build("fast_cnn", 10, (1, side, side)), (0.3,), (0.2,), enlarge).eval()
    seen = Preprocessing.of("fast_cnn", gold.shape, Normalisation(gold.mean, gold.std), side=student_side)
    pixels = torch.from_numpy(gold.train.images[:20])
    images = (pixels.float() / 255 - torch.tensor(seen.mean)) / torch.tensor(seen.std)
    images = seen.enlarge(images) if seen.enlarge else images
    answers = Teacher(Distillation(classifier, 1.0, 1.0), seen)(images).softmax(1)
    expected = classifier(pixels)
    # Enlarged in two steps or reduced again, the images are a little blurred.
    exact = student_side in (None, teacher_side)
    assert torch.allclose(answers, expected, atol=1e-5 if exact else 0.05)


def test_the_loss_is_that_of_hinton(gold: Gold, teacher: Classifier) -> None:
    seen = Preprocessing.of("fast_cnn", gold.shape, Normalisation(gold.mean, gold.std))
    images, logits = torch.rand(5, 1, 8, 8), torch.randn(5, 10)
    working = Teacher(Distillation(teacher, 3.0, 0.7), seen)
    wanted, given = (working(images) / 3).softmax(1), (logits / 3).softmax(1)
    difference = (wanted * (wanted / given).log()).sum(1).mean()
    expected = 0.3 * torch.tensor(2.0) + 0.7 * 9 * difference
    assert torch.allclose(working.loss(images, logits, torch.tensor(2.0)), expected, rtol=1e-4)
    alike: Tensor = working(images).requires_grad_()
    loss = Teacher(Distillation(teacher, 3.0, 1.0), seen).loss(images, alike, torch.tensor(2.0))
    assert loss.item() == pytest.approx(0, abs=1e-6)  # who answers like the teacher has nothing to learn
    loss.backward()
    assert alike.grad is not None
    assert alike.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


def test_a_resumed_training_gives_the_same_bits_and_needs_the_same_teacher(gold: Gold, teacher: Classifier) -> None:
    lesson = Distillation(teacher, 4.0, 0.9)
    whole, first = (Training(recipe(epochs=2), gold, distillation=lesson) for _ in range(2))
    list(whole.run())
    next(iter(first.run()))
    state = first.state_dict()
    resumed = Training(recipe(epochs=2), gold, distillation=lesson)
    resumed.load_state_dict(state)
    list(resumed.run())
    assert digest(resumed.best_classifier()) == digest(whole.best_classifier())
    for other in (None, Distillation(teacher, 4.0, 0.8), Distillation(teacher, 3.0, 0.9)):
        with pytest.raises(DataError, match="belongs to a training with another recipe"):
            Training(recipe(epochs=2), gold, distillation=other).load_state_dict(state)

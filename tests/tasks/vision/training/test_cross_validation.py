from __future__ import annotations

import dataclasses

import pytest
import torch

from tasks.vision.training import cross_validation, linear_probe
from tasks.vision.training.linear_probe import Features, Probe

CLASSES, IMAGES = 4, 200


@pytest.fixture(scope="module")
def train() -> Features:
    """Four clouds of points, a fifth of them in the wrong one."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(IMAGES) % CLASSES
    values = torch.randn(CLASSES, 16, generator=generator)[truth] * 2 + torch.randn(IMAGES, 16, generator=generator)
    labels = torch.where(torch.arange(IMAGES) % 5 == 0, (truth + 1) % CLASSES, truth)
    return Features(values, labels)


@pytest.fixture(scope="module")
def probe(train: Features) -> Probe:
    return dataclasses.replace(linear_probe.fit(train, train, CLASSES), penalty=0.03)


def test_an_answer_does_not_know_the_images_own_label(train: Features, probe: Probe) -> None:
    found = cross_validation.probabilities(train, probe, None, seed=0, most_seconds=60)
    torch.testing.assert_close(found.sum(1), torch.ones(IMAGES))
    wrong = torch.arange(IMAGES) % 5 == 0
    answers = found.argmax(1)
    assert (answers == train.labels)[~wrong].float().mean() > 0.9
    assert (answers == train.labels)[wrong].float().mean() < 0.1


def test_where_a_layer_starts_does_not_matter(train: Features, probe: Probe) -> None:
    zero = Probe(torch.zeros(CLASSES, 16), torch.zeros(CLASSES), probe.penalty, 0, 0, 0, 0)
    near, far = (cross_validation.probabilities(train, start, None, 0, 60) for start in (probe, zero))
    torch.testing.assert_close(near, far, atol=0.01, rtol=0)


def test_a_seed_gives_the_same_answers_and_uses_no_global_random_numbers(train: Features, probe: Probe) -> None:
    before = torch.get_rng_state()
    first, second, other = (cross_validation.probabilities(train, probe, None, seed, 60) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_folds_hold_every_class_in_equal_parts(train: Features) -> None:
    fold_of = cross_validation.stratified(train.labels, 5, seed=1)
    for label in range(CLASSES):
        counts = torch.bincount(fold_of[train.labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_check_that_would_take_too_long_ends_after_its_first_fold(
    train: Features, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    again = linear_probe.fit_again
    monkeypatch.setattr(linear_probe, "fit_again", lambda *given: fitted.append(1) or again(*given))
    assert cross_validation.probabilities(train, probe, None, 0, most_seconds=0) is None
    assert len(fitted) == 1


def test_many_images_are_divided_into_fewer_folds(
    train: Features, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_validation, "MANY_IMAGES", IMAGES)
    asked = []
    monkeypatch.setattr(
        linear_probe, "fit_again", lambda probe, some, others, weights: asked.append(others) or torch.zeros(1, CLASSES)
    )
    assert cross_validation.probabilities(train, probe, None, 0, 60) is not None
    assert sum(map(len, asked)) == IMAGES
    assert len(asked) == 3


def test_classes_of_one_image_are_no_obstacle() -> None:
    few = Features(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 3]))
    probe = linear_probe.fit(few, few, CLASSES)
    found = cross_validation.probabilities(few, probe, torch.ones(CLASSES), 0, 60)
    assert found.isfinite().all()

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tasks.contract.recipe import Recipe
from tasks.vision.data.gold import Gold
from tasks.vision.models.build import build
from tasks.vision.models.classifier import digest
from tasks.vision.training import duration
from tasks.vision.training.events import EpochEnd
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold

TRAIN, VALIDATION, BATCH = 200, 60, 20
KINDS = ("scratch", "head", "gradual", "full")


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold(TRAIN, VALIDATION)


@pytest.fixture(scope="module")
def few() -> Gold:
    """Three steps an epoch: as good as ten, where numbers are compared bit by bit."""
    return digits_as_gold(3 * BATCH, BATCH)


@pytest.fixture(scope="module")
def trained(gold: Gold) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build("fast_cnn", 10, gold.shape).state_dict()


def training(gold: Gold, trained: dict[str, Tensor], finetune: str, **changes: object) -> Training:
    base = {"epochs": 3, "batch_size": BATCH, "device": "cpu", "log_every": 0, "learning_rate": 0.001}
    recipe = Recipe.model_validate({**base, "finetune": finetune, **changes})
    return Training(recipe, gold, None if finetune == "scratch" else trained)


@pytest.fixture
def every_training_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "FEWEST_BATCHES", 1)


@pytest.fixture
def a_second_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is measured takes a second: a step, the images of a batch, the loss of the last layer."""
    monkeypatch.setattr("tasks.vision.training.duration.time.perf_counter", itertools.count().__next__)


@pytest.mark.usefixtures("every_training_is_worth_it")
@pytest.mark.parametrize(
    "changes",
    [{}, {"mixup": 0.2, "cutmix": 1.0, "auto_augment": "trivial", "optimizer": "adamw", "ema_decay": 0.9}],
    ids=["plain", "everything"],
)
@pytest.mark.parametrize("finetune", KINDS)
def test_a_training_has_the_same_bits_with_and_without_an_estimate(
    few: Gold, trained: dict[str, Tensor], finetune: str, changes: dict[str, object]
) -> None:
    without, measured = (training(few, trained, finetune, **changes) for _ in range(2))
    list(without.run())
    generator = torch.get_rng_state()
    left = duration.estimate(measured)
    assert torch.equal(torch.get_rng_state(), generator)
    list(measured.run())
    assert left is not None
    assert left.seconds > 0
    assert digest(measured.best_classifier()) == digest(without.best_classifier())
    assert [end.train_loss for end in measured.history] == [end.train_loss for end in without.history]


@pytest.mark.usefixtures("every_training_is_worth_it", "a_second_each")
def test_an_estimate_counts_the_last_layer_all_epochs_and_their_validation(
    gold: Gold, trained: dict[str, Tensor]
) -> None:
    image = 1 / VALIDATION
    read, fitted = (TRAIN + VALIDATION) * image, duration.PROBE_EVALUATIONS
    expected = {
        "scratch": (0.0, 3, 1.0),
        "full": (0.0, 3, 1.0),
        "gradual": (read + fitted, 2, 1.0),
        "head": (read + fitted, 0, 0.0),
    }
    for kind, (head, epochs, step) in expected.items():
        found = duration.estimate(training(gold, trained, kind))
        assert (found.head, found.epochs, found.steps, found.step) == (pytest.approx(head), epochs, 10, step)
        assert found.seconds == pytest.approx(head + epochs * (10 * step + VALIDATION * image))


@pytest.mark.usefixtures("every_training_is_worth_it", "a_second_each")
def test_mirrored_images_are_counted_where_only_the_last_layer_is_trained(
    gold: Gold, trained: dict[str, Tensor]
) -> None:
    plain, mirrored = (duration.estimate(training(gold, trained, "head", flip=flip)) for flip in (False, True))
    assert mirrored.head == pytest.approx(plain.head + TRAIN / VALIDATION)


@pytest.mark.usefixtures("every_training_is_worth_it")
def test_a_resumed_training_is_estimated_by_what_is_left(gold: Gold, trained: dict[str, Tensor]) -> None:
    resumed = training(gold, trained, "gradual")
    for left, event in zip((2, 1, None), (e for e in resumed.run() if isinstance(e, EpochEnd)), strict=True):
        found = duration.estimate(resumed)
        assert event.epoch <= 3
        assert (found.head, found.epochs) == (0, left) if left else found is None


def test_a_training_of_few_batches_is_not_measured(gold: Gold, trained: dict[str, Tensor]) -> None:
    assert duration.estimate(training(gold, trained, "head")) is None
    assert duration.estimate(training(gold, trained, "scratch", epochs=1)) is None
    assert duration.estimate(training(gold, trained, "scratch", epochs=2)) is not None


def test_an_estimate_is_of_the_right_order(gold: Gold, trained: dict[str, Tensor]) -> None:
    measured = training(gold, trained, "scratch", epochs=5)
    left = duration.estimate(measured)
    started = time.perf_counter()
    list(measured.run())
    assert 0.1 < left.seconds / (time.perf_counter() - started) < 10


def test_no_estimate_where_memory_is_short(
    gold: Gold, trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(learner: object) -> object:
        raise torch.OutOfMemoryError

    # Only there: pytest copies what it reports, and could not tell of a failure.
    monkeypatch.setattr(duration, "copy", SimpleNamespace(deepcopy=full))
    assert duration.estimate(training(gold, trained, "scratch")) is None


def test_an_estimate_reads_like_a_sentence() -> None:
    gradual = "about 5 min (last layer 12 s, then 13 epochs of 27 steps at 0.59 s)"
    assert str(duration.Duration(12.3, 13, 27, 0.587, 5)) == gradual
    assert str(duration.Duration(35, 0, 27, 0, 5)) == "about 35 s (last layer 35 s)"
    assert str(duration.Duration(0, 15, 20, 0.031, 0.1)) == "about 11 s (15 epochs of 20 steps at 0.031 s)"

"""Batches that pass through the network in parts: one step all the same, with the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.contract.recipe import Recipe
from tasks.errors import RequestError
from tasks.vision.data.gold import Gold
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest
from tasks.vision.training.distillation import Distillation
from tasks.vision.training.events import BatchEnd
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold

SETTINGS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_clip": 0.1, "label_smoothing": 0.1},
        {"optimizer": "adamw", "learning_rate": 1e-3, "ema_decay": 0.9},
        {"mixup": 0.2, "cutmix": 1.0},
        {"class_balance": "weights"},
        {"class_balance": "sampler", "precision": "bf16"},
    ],
    ids=["sgd", "clipped", "adamw, average", "mixed", "weights", "sampler, bf16"],
)


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold(100, 40)


def network() -> nn.Module:
    """No batch normalisation, which would see each part alone."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def training(gold: Gold, micro_batches: int, *, taught: bool = False, **changes: Any) -> Training:
    """Batches of 33 and 34 images, so that parts differ in size."""
    base = {"epochs": 3, "batch_size": 34, "device": "cpu", "log_every": 1, "learning_rate": 0.01}
    distillation = None
    if taught:
        teacher = Classifier(build("fast_cnn", 10, gold.shape), gold.mean, gold.std).eval()
        distillation = Distillation(teacher, 3.0, 0.7)
    return Training(
        Recipe.model_validate(base | changes),
        gold,
        classifier=Classifier(network(), gold.mean, gold.std),
        distillation=distillation,
        micro_batches=micro_batches,
    )


def told(training: Training) -> tuple[list[float], list[tuple[int, float]]]:
    """All losses, and steps with their learning rates."""
    batches = [event for event in training.run() if isinstance(event, BatchEnd)]
    ends = [loss for end in training.history for loss in (end.train_loss, end.validation_loss)]
    return [batch.loss for batch in batches] + ends, [(batch.step, batch.learning_rate) for batch in batches]


@SETTINGS
@pytest.mark.parametrize("taught", [False, True], ids=["alone", "taught"])
def test_losses_are_those_of_whole_batches(gold: Gold, changes: dict[str, Any], *, taught: bool) -> None:
    torch.manual_seed(1)
    whole = training(gold, 1, taught=taught, **changes)
    torch.manual_seed(1)
    parts = training(gold, 4, taught=taught, **changes)
    (expected, steps), (found, steps_found) = told(whole), told(parts)
    assert steps_found == steps
    assert len(steps) == 9
    assert found == pytest.approx(expected, rel=1e-3 if "precision" in changes else 1e-6, abs=1e-6)
    assert [end.train_accuracy for end in parts.history] == [end.train_accuracy for end in whole.history]
    for name, tensor in parts.learner.evaluated.state_dict().items():
        expected_tensor, atol = whole.learner.evaluated.state_dict()[name], 1e-3 if "precision" in changes else 1e-5
        torch.testing.assert_close(tensor, expected_tensor, rtol=1e-3, atol=atol)


def test_the_network_sees_a_part_at_a_time(gold: Gold) -> None:
    parts = training(gold, 4, epochs=1)
    seen: list[int] = []
    parts.network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    parts.learner.begin_epoch()
    images, labels = parts.train_images.batch(torch.arange(34))
    _, logits, _ = parts.learner.step(images, labels, 0.01, 1)
    assert seen == [9, 9, 8, 8]
    assert logits.shape == (34, 10)


def test_pretrained_statistics_stay_and_parts_change_nothing(gold: Gold) -> None:
    """Batch normalisation that keeps the statistics of pretrained weights works image by image."""
    trained = build("fast_cnn", 10, gold.shape).state_dict()
    fields = {"finetune": "full", "epochs": 1, "batch_size": 34, "device": "cpu", "learning_rate": 1e-3, "log_every": 1}
    whole, parts = (
        Training(Recipe.model_validate(fields), gold, trained, micro_batches=micro_batches) for micro_batches in (1, 4)
    )
    assert told(parts)[0] == pytest.approx(told(whole)[0], rel=1e-5)


def test_a_checkpoint_fits_any_number_of_parts(gold: Gold) -> None:
    whole, stopped, resumed = training(gold, 1), training(gold, 1), training(gold, 4)
    expected, _ = told(whole)
    next(event for event in stopped.run() if stopped.history)
    resumed.load_state_dict(stopped.state_dict())
    list(resumed.run())
    assert resumed.history[-1].validation_loss == pytest.approx(expected[-1], abs=1e-6)
    back = training(gold, 1)
    back.load_state_dict(resumed.state_dict())
    assert digest(back.best_classifier()) == digest(resumed.best_classifier())


def test_more_parts_than_pairs_of_images_are_refused(gold: Gold) -> None:
    message = (
        "micro_batches=17 is too many for a batch of 33 images: each part needs 2; set micro_batches to at most 16, "
        "or raise batch_size"
    )
    with pytest.raises(RequestError, match=message):
        training(gold, 17)
    assert training(gold, 16).micro_batches == 16


def test_float16_gradients_of_all_parts_have_one_scale(gold: Gold) -> None:
    """As on a GPU without bfloat16; a CPU has the scaler too."""
    parts, whole = training(gold, 4), training(gold, 1)
    for one in (parts, whole):
        one.learner._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        one.learner.begin_epoch()
    losses: list[Tensor] = []
    for one in (parts, whole):
        torch.manual_seed(2)
        losses.append(one.learner.step(*one.train_images.batch(torch.arange(34)), 0.01, 1)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    for one, other in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

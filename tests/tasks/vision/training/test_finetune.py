"""Training from trained weights: what the first epoch does, what stays frozen, that a resumed one has the same bits."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from tasks.contract.recipe import Recipe
from tasks.errors import DataError, ModelError
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models.classifier import digest, parameter_counts
from tasks.vision.training import linear_probe
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.events import EpochEnd, Reading
from tasks.vision.training.linear_probe import Probe
from tasks.vision.training.loop import Training

KINDS = ("head", "full", "gradual")


def gold_of(classes: str) -> Gold:
    """Some of the digits, 30 training and 10 validation images of each class."""
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    chosen = [np.flatnonzero(digits.target == int(name))[:40] for name in classes]

    def split(start: int, stop: int) -> Split:
        index = np.concatenate([of_class[start:stop] for of_class in chosen])
        labels = np.repeat(np.arange(len(classes)), stop - start).astype(np.int64)
        return Split(images[index], labels, tuple(map(str, index)))

    return Gold(split(0, 30), split(30, 40), split(30, 40), tuple(classes), (0.3,), (0.4,), "f" * 64, "digits")


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights that know five digits."""
    training = Training(recipe("scratch", batch_size=16, epochs=4, learning_rate=0.1), gold_of("01234"))
    list(training.run())
    return {name.removeprefix("network."): t for name, t in training.best_classifier().state_dict().items()}


@pytest.fixture(scope="module")
def gold() -> Gold:
    """Five digits that they do not know."""
    return gold_of("56789")


def recipe(finetune: str, **changes: object) -> Recipe:
    base = {"epochs": 3, "batch_size": 50, "device": "cpu", "log_every": 0, "learning_rate": 0.01}
    return Recipe.model_validate({**base, "finetune": finetune, **changes})


def ends(training: Training) -> list[EpochEnd]:
    return [event for event in training.run() if isinstance(event, EpochEnd)]


def test_the_epoch_of_the_head_measures_how_long_its_images_take_to_come(
    gold: Gold, trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tasks.vision.training.head_epoch.time.perf_counter", lambda: now[0])
    training = Training(recipe("gradual", epochs=1), gold, trained)
    fit, batches = linear_probe.fit, ImageTensor.batches

    def slow_fit(*arguments: Any) -> Probe:
        now[0] += 6
        return fit(*arguments)

    def slow_batches(self: ImageTensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(self, size):
            now[0] += 1  # one batch of validation images, two of training images
            yield batch

    monkeypatch.setattr(linear_probe, "fit", slow_fit)
    monkeypatch.setattr(ImageTensor, "batches", slow_batches)
    (end,) = ends(training)
    assert end.data_wait_share == pytest.approx(3 / 9)


def test_the_head_alone_learns_new_classes_in_one_epoch(gold: Gold, trained: dict[str, Tensor]) -> None:
    training = Training(recipe("head"), gold, trained)
    counts = parameter_counts(training.network)
    assert (counts["trainable"], counts["frozen"]) == (128 * 5 + 5, counts["total"] - 128 * 5 - 5)
    events = list(training.run())
    assert [event.images for event in events if isinstance(event, Reading)] == [50, 125, 200]
    assert [event.epoch for event in events if isinstance(event, EpochEnd)] == [1]
    assert training.best.validation_accuracy > 0.6
    after = training.best_classifier().network.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, trained[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_gradual_trains_the_head_first_and_then_all_layers(gold: Gold, trained: dict[str, Tensor]) -> None:
    head, training = Training(recipe("head"), gold, trained), Training(recipe("gradual"), gold, trained)
    first, *others = ends(training)
    assert first.validation_loss == ends(head)[0].validation_loss
    assert [end.epoch for end in others] == [2, 3]
    assert parameter_counts(training.network)["frozen"] == 0
    assert not torch.equal(training.network.state_dict()["features.0.weight"], trained["features.0.weight"])
    assert others[0].learning_rate > 0 == first.learning_rate


def test_full_begins_with_all_layers(gold: Gold, trained: dict[str, Tensor]) -> None:
    events = list(Training(recipe("full"), gold, trained).run())
    assert [type(event) for event in events] == [EpochEnd] * 3


@pytest.mark.parametrize("finetune", ["full", "gradual"])
def test_the_statistics_of_batch_normalisation_stay_those_of_the_trained_weights(
    gold: Gold, trained: dict[str, Tensor], finetune: str
) -> None:
    training = Training(recipe(finetune), gold, trained)
    list(training.run())
    state = training.network.state_dict()
    assert torch.equal(state["features.1.running_mean"], trained["features.1.running_mean"])
    assert not torch.equal(state["features.1.weight"], trained["features.1.weight"])


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "optimizer": "adamw", "layer_decay": 0.7}], ids=str)
@pytest.mark.parametrize("finetune", KINDS)
def test_a_resumed_training_ends_with_the_same_bits(
    gold: Gold, trained: dict[str, Tensor], finetune: str, changes: dict[str, object]
) -> None:
    undisturbed = Training(recipe(finetune, **changes), gold, trained)
    expected = [end.train_loss for end in ends(undisturbed)]
    stopped = Training(recipe(finetune, **changes), gold, trained)
    next(event for event in stopped.run() if isinstance(event, EpochEnd))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = Training(recipe(finetune, **changes), gold, trained)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    ends(resumed)
    assert [end.train_loss for end in resumed.history] == expected
    assert digest(resumed.best_classifier()) == digest(undisturbed.best_classifier())


def test_a_checkpoint_of_a_training_from_other_weights_is_refused(gold: Gold, trained: dict[str, Tensor]) -> None:
    first = Training(recipe("full"), gold, trained)
    next(first.run())
    others = {**trained, "features.0.weight": trained["features.0.weight"] * 2}
    with pytest.raises(DataError, match="another recipe or other data"):
        Training(recipe("full"), gold, others).load_state_dict(first.state_dict())


def test_the_average_of_weights_starts_from_the_fitted_head(gold: Gold, trained: dict[str, Tensor]) -> None:
    training = Training(recipe("gradual", ema_decay=0.999, learning_rate=1e-6, epochs=2), gold, trained)
    first, second = ends(training)
    assert second.validation_loss == pytest.approx(first.validation_loss, rel=1e-3)


def test_enlarged_images_are_validated_and_served_alike(gold: Gold, trained: dict[str, Tensor]) -> None:
    training = Training(recipe("gradual", input_side=16), gold, trained)
    list(training.run())
    classifier = training.best_classifier()
    with torch.inference_mode():
        answers = classifier(torch.from_numpy(gold.validation.images)).argmax(1)
    assert (answers.numpy() == gold.validation.labels).mean() == pytest.approx(training.best.validation_accuracy)


def test_weights_of_another_network_are_refused_before_anything_is_trained(
    gold: Gold, trained: dict[str, Tensor]
) -> None:
    with pytest.raises(ModelError, match="not those of mobilenet_v3_small"):
        Training(recipe("full", model="mobilenet_v3_small"), gold, trained)


def test_a_class_without_validation_images_is_no_obstacle(gold: Gold, trained: dict[str, Tensor]) -> None:
    kept = gold.validation.labels != 4
    validation = Split(gold.validation.images[kept], gold.validation.labels[kept], gold.validation.names[: kept.sum()])
    assert ends(Training(recipe("head"), dataclasses.replace(gold, validation=validation), trained))

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from tasks.contract.recipe import Recipe
from tasks.errors import RequestError
from tasks.vision.data.gold import Gold
from tasks.vision.training.events import BatchEnd
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold

Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold(300, 100, 100)


def recipe(**changes: object) -> Recipe:
    base = {"epochs": 2, "batch_size": 50, "device": "cpu", "log_every": 0}
    return Recipe.model_validate(base | changes)


def test_events_come_every_so_many_batches_and_after_each_epoch(gold: Gold) -> None:
    training = Training(recipe(epochs=2, log_every=4), gold)
    assert training.steps_per_epoch == 6
    events = list(training.run())
    marks = [event.step if isinstance(event, BatchEnd) else -event.epoch for event in events]
    assert marks == [4, -1, 8, 12, -2]
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, BatchEnd))


def test_time_the_consumer_takes_is_not_training_time(gold: Gold, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    away = [0]
    monkeypatch.setattr("tasks.vision.training.epoch.time.perf_counter", lambda: next(now) + away[0])
    training = Training(recipe(epochs=1, log_every=2), gold)
    for event in training.run():
        away[0] += 1000 if isinstance(event, BatchEnd) else 0
    assert 0 < training.history[0].epoch_seconds < 40


def test_every_image_is_trained_on_once_per_epoch_in_batches_of_nearly_equal_size(gold: Gold) -> None:
    training = Training(recipe(epochs=1, batch_size=299), gold)
    seen: list[Tensor] = []
    original = training.train_images.read

    def recording(batches: Sequence[Tensor]) -> Iterator[Batch]:
        seen.extend(batches)
        return original(batches)

    training.train_images.read = recording  # type: ignore[method-assign]
    list(training.run())
    assert sorted(len(index) for index in seen) == [150, 150]
    assert torch.cat(seen).sort().values.tolist() == list(range(300))


def test_the_share_of_time_waiting_for_data_is_that_in_which_no_batch_is_there(
    gold: Gold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seconds for each batch to come, one for the step with it, a hundred for who looks on."""
    now = [0.0]
    monkeypatch.setattr("tasks.vision.training.epoch.time.perf_counter", lambda: now[0])
    training = Training(recipe(epochs=1, log_every=1), gold)
    read, step = training.train_images.read, training.learner.step

    def slow_read(batches: Sequence[Tensor]) -> Iterator[Batch]:
        for batch in read(batches):
            now[0] += 3
            yield batch

    def slow_step(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
        now[0] += 1
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training.train_images, "read", slow_read)
    monkeypatch.setattr(training.learner, "step", slow_step)
    for event in training.run():
        now[0] += 100 if isinstance(event, BatchEnd) else 0
    assert training.history[0].data_wait_share == 0.75


def test_a_loss_that_is_no_number_ends_training_with_the_fix(gold: Gold) -> None:
    training = Training(recipe(learning_rate=10, momentum=0.99, warmup_fraction=0, weight_decay=0.9), gold)
    message = (
        r"the loss became (nan|inf) in epoch \d at a learning rate of [\d.]+; lower learning_rate, or set gradient_clip"
    )
    with torch.no_grad():
        training.network.get_parameter("classifier.weight").fill_(1e38)  # diverged in one step
    with pytest.raises(RequestError, match=message):
        list(training.run())

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contract.datasets import DATASETS, DataSet, Files
from tasks.contract.networks import NETWORKS, Network, Normalisation
from tasks.contract.recipe import Recipe
from tasks.errors import DataError
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest
from tasks.vision.training import epoch
from tasks.vision.training.events import EpochEnd, Pause
from tasks.vision.training.loop import Training
from tests.digits import digits_as_gold


@pytest.fixture(scope="module")
def gold() -> Gold:
    return digits_as_gold(300, 100, 100)


@pytest.fixture(scope="module")
def few() -> Gold:
    """Two steps an epoch: as good as six, where numbers are compared bit by bit."""
    return digits_as_gold(100, 40)


def recipe(**changes: object) -> Recipe:
    base = {"epochs": 2, "batch_size": 50, "device": "cpu", "log_every": 0}
    return Recipe.model_validate(base | changes)


def losses(training: Training) -> list[float]:
    list(training.run())
    return [value for end in training.history for value in (end.train_loss, end.validation_loss)]


def through_a_file(state: dict[str, object]) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, object] = torch.load(buffer, weights_only=True)
    return loaded


def test_a_few_epochs_learn_digits(gold: Gold) -> None:
    training = Training(recipe(epochs=4, batch_size=20), gold)
    list(training.run())
    assert training.best.validation_accuracy > 0.7  # 0.79 with one thread; more order the sums otherwise
    assert training.history[-1].train_loss < training.history[0].train_loss / 2


def test_the_best_classifier_scores_on_pixels_what_validation_said(gold: Gold) -> None:
    training = Training(recipe(epochs=3), gold)
    list(training.run())
    classifier = training.best_classifier()
    with torch.inference_mode():
        answers = classifier(torch.from_numpy(gold.validation.images)).argmax(1)
    assert not classifier.training
    assert (answers.numpy() == gold.validation.labels).mean() == pytest.approx(training.best.validation_accuracy)


def test_a_seed_gives_the_same_losses_and_weights_again(few: Gold) -> None:
    first, second = Training(recipe(), few), Training(recipe(), few)
    assert losses(first) == losses(second)
    assert digest(first.best_classifier()) == digest(second.best_classifier())


def test_another_seed_gives_other_losses(few: Gold) -> None:
    assert losses(Training(recipe(epochs=1, seed=0), few)) != losses(Training(recipe(epochs=1, seed=1), few))


RECIPES = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.003, "schedule": "plateau", "ema_decay": 0.9},
        {"schedule": "cosine", "gradient_clip": 1.0, "label_smoothing": 0.1},
        {"auto_augment": "trivial", "class_balance": "weights"},
        {"auto_augment": "rand", "class_balance": "sampler"},
        {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "class_balance": "weights"},
        {"finetune": "full", "augmentation": 1.0, "learning_rate": 0.001, "optimizer": "adamw"},
        {
            "finetune": "gradual",
            "auto_augment": "trivial",
            "mixup": 0.2,
            "class_balance": "sampler",
            "learning_rate": 0.001,
            "optimizer": "adamw",
        },
    ],
    ids=[
        *("sgd", "adamw, plateau, average", "cosine, clipped"),
        *("trivial, weights", "rand, sampler", "mixed", "fine-tuned", "fine-tuned with everything"),
    ],
)


@RECIPES
def test_resumed_training_ends_with_the_same_bits_as_undisturbed_training(
    few: Gold, changes: dict[str, object]
) -> None:
    trained = None
    if "finetune" in changes:
        trained = build("fast_cnn", 10, few.shape).state_dict()
    undisturbed = Training(recipe(epochs=4, **changes), few, trained)
    expected = losses(undisturbed)

    stopped = Training(recipe(epochs=4, **changes), few, trained)
    events = (event for event in stopped.run() if isinstance(event, EpochEnd))
    next(events), next(events)
    state = through_a_file(stopped.state_dict())
    next(events)  # an epoch that is lost
    torch.rand(5)  # whatever else a new process does with torch's generator

    resumed = Training(recipe(epochs=4, **changes), few, trained)
    resumed.load_state_dict(state)
    assert len(resumed.history) == 2
    assert losses(resumed) == expected
    assert digest(resumed.best_classifier()) == digest(undisturbed.best_classifier())
    assert same(resumed.state_dict()["network"], undisturbed.state_dict()["network"])


@RECIPES
def test_a_training_resumed_in_the_middle_of_an_epoch_goes_on_with_the_very_next_batch(
    few: Gold, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "PAUSE_SECONDS", 0.0)
    trained = build("fast_cnn", 10, few.shape).state_dict() if "finetune" in changes else None
    changes = changes | {"epochs": 3, "batch_size": 25}
    undisturbed = Training(recipe(**changes), few, trained)
    expected = losses(undisturbed)

    stopped = Training(recipe(**changes), few, trained)
    pauses = (event for event in stopped.run() if isinstance(event, Pause))
    while next(pauses).step != 6:  # of 12: the second of the second epoch
        pass
    state = through_a_file(stopped.state_dict())
    next(pauses)  # a batch that is lost
    torch.rand(5)  # whatever else a new process does with torch's generator

    resumed = Training(recipe(**changes), few, trained)
    resumed.load_state_dict(state)
    assert (len(resumed.history), resumed.steps_done) == (1, 6)
    assert losses(resumed) == expected
    assert digest(resumed.best_classifier()) == digest(undisturbed.best_classifier())
    assert same(resumed.state_dict()["network"], undisturbed.state_dict()["network"])


def test_a_checkpoint_between_epochs_is_one_that_earlier_releases_read(few: Gold) -> None:
    training = Training(recipe(epochs=1), few)
    list(training.run())
    state = training.state_dict()
    assert state["format"] == 3
    assert "position" not in state
    assert set(state["history"][0]) == {
        *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
        *("learning_rate", "images_per_second", "epoch_seconds"),
    }


def test_a_checkpoint_of_an_earlier_release_goes_on_without_what_it_did_not_measure(few: Gold) -> None:
    undisturbed, stopped, resumed = (Training(recipe(epochs=2), few) for _ in range(3))
    list(undisturbed.run())
    next(iter(stopped.run()))
    state = through_a_file(stopped.state_dict())
    del state["data_wait_shares"]
    resumed.load_state_dict(state)
    list(resumed.run())
    first, second = resumed.history
    assert first.data_wait_share is None
    assert "data_wait_share" not in first.metrics
    assert second.data_wait_share == second.metrics["data_wait_share"]
    assert digest(resumed.best_classifier()) == digest(undisturbed.best_classifier())
    again = Training(recipe(epochs=2), few)
    again.load_state_dict(through_a_file(resumed.state_dict()))
    assert again.history == resumed.history


@pytest.mark.parametrize("changes", [{"mixup": 0.2, "cutmix": 1.0}, {"auto_augment": "trivial"}], ids=["mixed", "auto"])
def test_augmented_training_learns_digits(gold: Gold, changes: dict[str, object]) -> None:
    training = Training(recipe(epochs=6, batch_size=20, **changes), gold)
    list(training.run())
    assert training.best.validation_accuracy > 0.5
    assert training.history[-1].train_accuracy > 0.3  # against the label with the larger share


@pytest.mark.parametrize("finetune", ["scratch", "head", "full"])
def test_rare_classes_are_found_more_often_with_balance(gold: Gold, finetune: str) -> None:
    """Of the digits 5 to 9 there are a handful each."""
    rare = np.flatnonzero(gold.train.labels >= 5)[15:]
    kept = np.setdiff1d(np.arange(300), rare)
    few = Split(gold.train.images[kept], gold.train.labels[kept], tuple(gold.train.names[i] for i in kept))
    uneven = dataclasses.replace(gold, train=few)
    trained = None if finetune == "scratch" else build("fast_cnn", 10, gold.shape).state_dict()

    def rare_answers(balance: str) -> int:
        changes = {"finetune": finetune, "class_balance": balance, "augmentation": 0.0, "learning_rate": 0.02}
        training = Training(recipe(epochs=3, batch_size=20, **changes), uneven, trained)
        list(training.run())
        assert training.steps_per_epoch == math.ceil(len(kept) / 20)
        with torch.inference_mode():
            answers = training.best_classifier()(torch.from_numpy(gold.test.images)).argmax(1)
        return int((answers >= 5).sum())

    without = rare_answers("none")
    assert rare_answers("weights") > without
    assert rare_answers("sampler") > without


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_training_resumes_to_nothing(few: Gold) -> None:
    done = Training(recipe(epochs=1), few)
    list(done.run())
    resumed = Training(recipe(epochs=1), few)
    resumed.load_state_dict(through_a_file(done.state_dict()))
    assert list(resumed.run()) == []
    assert digest(resumed.best_classifier()) == digest(done.best_classifier())


def test_a_checkpoint_of_another_recipe_or_other_data_is_refused(gold: Gold) -> None:
    state = Training(recipe(), gold).state_dict()
    with pytest.raises(DataError, match="another recipe or other data"):
        Training(recipe(learning_rate=0.05), gold).load_state_dict(state)
    with pytest.raises(DataError, match="another recipe or other data"):
        Training(recipe(), dataclasses.replace(gold, fingerprint="e" * 64)).load_state_dict(state)
    with pytest.raises(DataError, match="format None is none of"):
        Training(recipe(), gold).load_state_dict({})


def test_training_stops_after_patience_epochs_without_gain(few: Gold) -> None:
    training = Training(recipe(epochs=50, patience=2, learning_rate=1e-9, schedule="plateau", min_delta=0.1), few)
    list(training.run())
    assert len(training.history) == 3
    assert training.finished


def test_the_best_epoch_is_kept_when_later_ones_are_worse(few: Gold) -> None:
    training = Training(recipe(epochs=3), few)
    list(training.run())
    accuracies = [end.validation_accuracy for end in training.history]
    worse = dataclasses.replace(training.history[-1], epoch=4, validation_accuracy=0.0)
    training.history.append(worse)
    assert training.best.validation_accuracy == max(accuracies)


def test_of_equally_good_epochs_the_last_is_best(gold: Gold) -> None:
    training = Training(recipe(), gold)
    end = EpochEnd(1, 1.0, 0.5, 0.1, 0.9, 0.1, 1.0, 1.0)
    training.history = [end, dataclasses.replace(end, epoch=2, validation_loss=0.2)]
    assert training.best.epoch == 2


def test_plateau_lowers_the_learning_rate_of_the_next_epoch(gold: Gold) -> None:
    training = Training(recipe(schedule="plateau", learning_rate=0.1), gold)
    end = EpochEnd(1, 1.0, 0.5, 0.1, 0.9, 0.1, 1.0, 1.0)
    assert training.learning_rate(0) == 0.1
    training.history = [end] * 4
    assert training.learning_rate(24) == pytest.approx(0.03)


def test_bfloat16_trains_on_a_cpu_and_leaves_float32_weights(few: Gold) -> None:
    training = Training(recipe(precision="bf16", epochs=3, batch_size=20), few)
    list(training.run())
    assert training.precision is torch.bfloat16
    assert training.history[-1].train_loss < training.history[0].train_loss
    assert {p.dtype for p in training.best_classifier().parameters()} == {torch.float32}


def test_digits_are_not_mirrored_unless_asked_for(gold: Gold) -> None:
    photographs = dataclasses.replace(gold, dataset="image_folder")
    assert not Training(recipe(), gold).augmentation.flip
    assert Training(recipe(flip=True), gold).augmentation.flip
    assert Training(recipe(), photographs).augmentation.flip
    assert not Training(recipe(flip=False), photographs).augmentation.flip


def test_flips_are_as_the_data_set_says_and_on_for_one_that_is_no_longer_known(
    gold: Gold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "signs", DataSet("road signs", Files(16), flip=False))
    signs, gone = (dataclasses.replace(gold, dataset=name) for name in ("signs", "of-an-earlier-release"))
    assert not Training(recipe(), signs).augmentation.flip
    assert Training(recipe(), gone).augmentation.flip


def test_a_network_gets_the_normalisation_that_it_expects(gold: Gold, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(channels: int) -> Network:
        return Network("pretrained", "fast_cnn", normalisation=Normalisation((0.25,) * channels, (0.5,) * channels))

    monkeypatch.setitem(NETWORKS, "new", entry(1))
    training = Training(recipe(model="new", epochs=1), gold)
    list(training.run())
    classifier = training.best_classifier()
    assert (classifier.mean.item(), classifier.std.item()) == (0.25, 0.5)
    monkeypatch.setitem(NETWORKS, "new", entry(3))
    with pytest.raises(DataError, match="model='new' takes images with 3 channels, and these have 1; choose another"):
        Training(recipe(model="new"), gold)


def test_one_training_image_is_too_few(gold: Gold) -> None:
    one = dataclasses.replace(gold, train=Split(gold.train.images[:1], gold.train.labels[:1], ("0",)))
    with pytest.raises(DataError, match="1 training image is too few"):
        Training(recipe(), one)


def test_fewer_images_than_a_batch_are_one_batch(gold: Gold) -> None:
    training = Training(recipe(batch_size=8192, epochs=1), gold)
    assert training.steps_per_epoch == 1
    assert len(list(training.run())) == 1


def test_the_best_classifier_has_ordinary_modules_whatever_it_was_trained_with(few: Gold) -> None:
    training = Training(recipe(model="mobilenet_v3_small", epochs=1, batch_size=50), few)
    list(training.run())
    kernels = "tasks.vision.training.kernels"
    assert kernels in {type(module).__module__ for module in training.network.modules()}
    classifier = training.best_classifier()
    assert kernels not in {type(module).__module__ for module in classifier.modules()}
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in classifier.state_dict().values())


def test_a_given_classifier_is_trained_on_with_its_weights_and_its_normalisation(gold: Gold) -> None:
    before = Classifier(build("fast_cnn", 10, gold.shape), (0.2,), (0.7,)).eval()
    was = digest(before)
    training = Training(recipe(epochs=1, learning_rate=1e-6), gold, classifier=before)
    given = training.network.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in before.network.state_dict().items())
    list(training.run())
    after = training.best_classifier()
    assert (after.mean.item(), after.std.item()) == pytest.approx((0.2, 0.7))
    assert digest(before) == was != digest(after)
    with pytest.raises(DataError, match="the checkpoint belongs to a training with another recipe or other data"):
        Training(recipe(epochs=1, learning_rate=1e-6), gold).load_state_dict(training.state_dict())

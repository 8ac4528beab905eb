from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.vision.training import class_balance

UNEVEN = torch.tensor([0] * 60 + [1] * 25 + [2] * 5 + [4] * 10)  # no image of class 3
CLASSES = 5


def test_weights_are_inverse_to_the_number_of_images_and_1_in_the_mean_over_them() -> None:
    weights = class_balance.class_weights(UNEVEN, CLASSES)
    assert weights.dtype == torch.float32
    assert weights[UNEVEN].mean().item() == pytest.approx(1)
    sums = [weights[UNEVEN[label == UNEVEN]].sum().item() for label in (0, 1, 2, 4)]
    assert sums == pytest.approx([25] * 4)
    assert weights[3] == 0


def test_weights_of_even_classes_are_1() -> None:
    assert class_balance.class_weights(torch.arange(30) % 3, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_and_probabilities_that_say_the_same_give_the_same_loss(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, CLASSES), UNEVEN[::5]
    weights = class_balance.class_weights(UNEVEN, CLASSES)
    hard = class_balance.loss(logits, labels, smoothing, weights)
    soft = class_balance.loss(logits, functional.one_hot(labels, CLASSES).float(), smoothing, weights)
    torch.testing.assert_close(hard, soft)
    each = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(hard, sum((weights[y] * one for y, one in zip(labels, each, strict=True))) / 20)


def test_without_weights_the_loss_is_torchs() -> None:
    logits, labels = torch.randn(20, CLASSES), UNEVEN[::5]
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(class_balance.loss(logits, labels, 0.1), expected)


def test_a_rare_class_pulls_as_strongly_in_any_company() -> None:
    """Torch's own weighted mean would make a batch of one class the same as without weights."""
    logits, weights = torch.randn(4, CLASSES), class_balance.class_weights(UNEVEN, CLASSES)
    rare = torch.full((4,), 2)
    torch.testing.assert_close(
        class_balance.loss(logits, rare, 0.0, weights), weights[2] * functional.cross_entropy(logits, rare)
    )


def drawn(labels: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return class_balance.balanced_order(labels)


def test_each_class_is_drawn_as_often_in_an_epoch_of_as_many_images() -> None:
    order = drawn(UNEVEN)
    assert len(order) == len(UNEVEN)
    assert torch.bincount(UNEVEN[order]).tolist() == [25, 25, 25, 0, 25]


def test_images_of_a_class_are_repeated_evenly_and_not_chosen_twice_while_others_wait() -> None:
    times = torch.bincount(drawn(UNEVEN), minlength=len(UNEVEN))
    assert times[UNEVEN == 0].max() == 1
    assert set(times[UNEVEN == 1].tolist()) == {1}
    assert set(times[UNEVEN == 2].tolist()) == {5}
    assert set(times[UNEVEN == 4].tolist()) == {2, 3}


def test_of_even_classes_every_image_is_drawn_once() -> None:
    assert drawn(torch.arange(30) % 3).sort().values.tolist() == list(range(30))


def test_what_does_not_divide_goes_to_classes_at_random() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    counts = {tuple(torch.bincount(labels[drawn(labels, seed)]).tolist()) for seed in range(20)}
    assert counts == {(2, 3), (3, 2)}


def test_the_order_depends_on_the_seed_alone_and_mixes_the_classes() -> None:
    assert torch.equal(drawn(UNEVEN, 1), drawn(UNEVEN, 1))
    assert not torch.equal(drawn(UNEVEN, 1), drawn(UNEVEN, 2))
    assert len(UNEVEN[drawn(UNEVEN)][:20].unique()) > 2

"""Replicas in real processes: each has its share, and together they train as one process does."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tasks.contract.recipe import Recipe
from tasks.errors import RequestError
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models.classifier import Classifier
from tasks.vision.training import epoch, order, replicas
from tasks.vision.training.events import EpochEnd, Pause
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import Replicas, require_enough
from tasks.vision.training.sync_batch_norm import synchronize
from tests.digits import digits_as_gold
from tests.tasks.vision.training.replicas_in_processes import together

SIZE = 3
# Batches of 33 and 34, so that shares differ. Everything random is drawn for whole batches.
RECIPE = {
    "model": "fast_cnn",
    "batch_size": 34,
    "epochs": 2,
    "learning_rate": 0.001,
    "log_every": 2,
    "precision": "fp32",
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted, clipped and averaged": {"class_balance": "weights", "gradient_clip": 1.0, "ema_decay": 0.9},
    "sampled, adamw": {"class_balance": "sampler", "optimizer": "adamw", "learning_rate": 1e-4},
    "in windows": {},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, **fields})


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each replica got, by rank: all in one group of processes, which takes seconds to start."""
    begun = Training(recipe(epochs=1), digits_as_gold())
    list(begun.run())
    start = dict(begun.network.state_dict())
    found = together(everything, tmp_path_factory.mktemp("replicas") / "seen", start, size=SIZE)
    for one in found:
        one["start"] = start
    return found


def everything(own: Replicas, start: dict[str, torch.Tensor]) -> dict[str, Any]:
    synced = replace(own, sync_batch_norm=True)
    whole = paused(synced, None)
    return {
        "parts": parts(own),
        "crops": cropped(own),
        "normalised": normalised(own),
        "trained": {kind: trained(synced, kind) for kind in KINDS},
        "unsynced": trained(own, "plain"),
        "in parts": in_parts(own, 3),
        "head": head_fitted(own, start),
        "whole": whole,
        "resumed": [paused(synced, state)[1] for state in own_first(own, whole[0][1])],
    }


def own_first(own: Replicas, state: bytes) -> list[bytes]:
    """The state of the first replica, for all of them."""
    states = [state]
    torch.distributed.broadcast_object_list(states)
    return states


def parts(own: Replicas) -> dict[str, Any]:
    """What each replica gets to see of the parts of a batch."""
    torch.manual_seed(7)
    index = torch.arange(10)
    share = own.share(index)
    noise = torch.randn(2)
    with own.own_random():
        apart = torch.randn(2)
    mean = [torch.full((2,), float(own.rank)), torch.tensor(own.rank)]
    own.average(mean)
    return {
        "share": share,
        "last": own.share(index.view(2, 5), 1),
        "gathered": own.gather(share.view(-1, 1)),
        "total": own.total(torch.tensor(own.rank + 1)),
        "weights": own.weight(len(share), 10) * len(share) / SIZE,
        "noise": noise,
        "apart": apart,
        "after": torch.randn(2),
        "mean": mean,
        "largest": own.largest(float(own.rank % 2), torch.device("cpu")),
        "agreed": [own.any(own.rank == 1, batch, torch.device("cpu")) for batch in (15, 16)],
    }


def test_each_has_its_share_and_all_know_the_whole(seen: list[dict[str, Any]]) -> None:
    found = [one["parts"] for one in seen]
    assert [part["share"].tolist() for part in found] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [part["last"].tolist() for part in found] == [[[0, 1], [5, 6]], [[2, 3], [7, 8]], [[4], [9]]]
    assert all(part["gathered"].flatten().tolist() == list(range(10)) for part in found)
    assert [int(part["total"]) for part in found] == [6, 6, 6]
    assert all(torch.equal(part[name], found[0][name]) for part in found for name in ("noise", "after"))
    assert not torch.equal(found[0]["apart"], found[1]["apart"])
    assert [[tensor.tolist() for tensor in part["mean"]] for part in found] == [[[1.0, 1.0], 0]] * SIZE
    assert [part["largest"] for part in found] == [1.0] * SIZE
    assert [part["agreed"] for part in found] == [[False, True]] * SIZE


def test_the_average_of_weighted_means_is_the_mean_of_the_batch() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    shares = [(own, own.share(losses)) for own in (Replicas(rank, 2) for rank in range(2))]
    means = [share.mean() * own.weight(len(share), len(losses)) for own, share in shares]
    assert sum(means) / 2 == pytest.approx(losses.mean())


def trained(own: Replicas, kind: str) -> tuple[list[EpochEnd], dict[str, torch.Tensor]]:
    gold = digits_as_gold()
    with pytest.MonkeyPatch.context() as patch:
        if kind == "in windows":  # as gold that is larger than memory: three windows of shards with 20 images
            patch.setattr(order, "WINDOW_BYTES", math.ceil(gold.train.images.nbytes / 3))
            gold = replace(gold, train=replace(gold.train, shards=tuple(range(0, 201, 20))))
        training = Training(recipe(**KINDS[kind]), gold, replicas=own)
        ends = [event for event in training.run() if isinstance(event, EpochEnd)]
    return ends, training.learner.evaluated.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_one_process_with_the_same_batches(seen: list[dict[str, Any]], kind: str) -> None:
    alone, weights = trained(Replicas(), kind)
    for ends, found in (one["trained"][kind] for one in seen):
        for end, expected in zip(ends, alone, strict=True):
            assert end.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
            assert end.validation_loss == pytest.approx(expected.validation_loss, rel=1e-3)
            assert end.train_accuracy == pytest.approx(expected.train_accuracy, abs=0.02)
            assert end.learning_rate == expected.learning_rate
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-2, atol=1e-3)


def test_replicas_stay_the_same_network(seen: list[dict[str, Any]]) -> None:
    _, first = seen[0]["unsynced"]
    for name, tensor in seen[1]["unsynced"][1].items():
        torch.testing.assert_close(tensor, first[name])


def test_unless_synchronised_batch_normalisation_sees_the_share_alone(seen: list[dict[str, Any]]) -> None:
    expected = trained(Replicas(), "plain")[0][0].train_loss
    found = seen[0]["unsynced"][0][0].train_loss
    assert found != pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(expected, rel=0.3)


def in_parts(own: Replicas, micro_batches: int) -> tuple[list[EpochEnd], int]:
    """Train a network without batch normalisation; return its epochs, and how often gradients were averaged."""
    gold, messages = digits_as_gold(), itertools.count()
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    classifier = Classifier(layers, gold.mean, gold.std)
    training = Training(recipe(), gold, classifier=classifier, replicas=own, micro_batches=micro_batches)
    if isinstance(training.learner._forward, DistributedDataParallel):
        group = torch.distributed.group.WORLD
        training.learner._forward.register_comm_hook(
            messages, lambda state, bucket: (next(state), allreduce_hook(group, bucket))[1]
        )
    list(training.run())
    return training.history, next(messages)


def test_gradients_of_parts_of_a_share_are_averaged_once(seen: list[dict[str, Any]]) -> None:
    expected, _ = in_parts(Replicas(), 1)
    for ends, messages in (one["in parts"] for one in seen):
        assert messages == 2 * 6  # epochs and batches
        assert [end.train_loss for end in ends] == pytest.approx([end.train_loss for end in expected], rel=1e-6)
        assert [end.validation_loss for end in ends] == pytest.approx([e.validation_loss for e in expected], rel=1e-6)


def head_fitted(own: Replicas, start: dict[str, torch.Tensor]) -> list[EpochEnd]:
    fields = {"finetune": "gradual", "augmentation": 0.0}
    training = Training(recipe(**fields), digits_as_gold(), start, replicas=own)
    return [event for event in training.run() if isinstance(event, EpochEnd)]


def test_the_last_layer_is_fitted_to_all_features(seen: list[dict[str, Any]]) -> None:
    alone = head_fitted(Replicas(), seen[0]["start"])
    for ends in (one["head"] for one in seen):
        for end, expected in zip(ends, alone, strict=True):  # normalisation is frozen: nothing has to be synchronised
            assert end.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
            assert end.validation_accuracy == pytest.approx(expected.validation_accuracy, abs=0.02)


def paused(own: Replicas, saved: bytes | None) -> tuple[list[bytes], list[EpochEnd]]:
    """Train with a pause every second batch, from the start or a state; return the states and the epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoch, "PAUSE_SECONDS", 0.0)
        patch.setattr(replicas, "AGREED_EVERY", 2)
        training, states = Training(recipe(), digits_as_gold(), replicas=own), []
        if saved is not None:
            training.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
        for event in training.run():
            if isinstance(event, Pause):
                buffer = io.BytesIO()
                torch.save(training.state_dict(), buffer)
                states.append(buffer.getvalue())
    return states, training.history


def losses(history: list[EpochEnd]) -> list[tuple[float, float, float]]:
    return [(end.train_loss, end.train_accuracy, end.validation_loss) for end in history]


def test_they_go_on_in_the_middle_of_an_epoch_as_without_a_pause(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        assert len(one["whole"][0]) > 2
        assert losses(one["whole"][1]) == losses(seen[0]["whole"][1])
        for found, expected in zip(losses(one["resumed"][0]), losses(one["whole"][1]), strict=True):
            assert found == pytest.approx(expected, rel=1e-6)  # sums of an epoch are rounded at another place
    alone = paused(Replicas(), seen[0]["whole"][0][1])[1]  # one process goes on from it as well
    assert alone[-1].train_loss == pytest.approx(seen[0]["whole"][1][-1].train_loss, rel=1e-4)


def cropped(own: Replicas) -> torch.Tensor:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (8, 3, 16, 16), dtype=np.uint8), np.arange(8) % 2, [""] * 8)
    gold: Gold = replace(digits_as_gold(), train=split, validation=split, mean=(0.5,) * 3, std=(0.2,) * 3)
    start = dict(Training(recipe(batch_size=8), gold).network.state_dict())
    training = Training(recipe(finetune="full", batch_size=8), gold, start, replicas=own)
    torch.manual_seed(3)
    return training.train_images.batch(torch.zeros(8, dtype=torch.int64))[0]


def test_random_crops_differ_between_replicas(seen: list[dict[str, Any]]) -> None:
    """The same image everywhere: with the same random numbers, both would see the same crops of it."""
    first, second, last = (one["crops"] for one in seen)
    assert [len(first), len(second), len(last)] == [3, 3, 2]
    assert not torch.equal(first, second)


def normalised(own: Replicas) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    network, images = norm(), batch()
    synchronize(network)
    own_images = own.share(images).requires_grad_()
    output = network(own_images)
    (output * own.share(torch.arange(6.0).view(6, 1, 1, 1))).sum().backward()
    assert own_images.grad is not None
    return own.gather(output.detach()), own.gather(own_images.grad), network.running_var


def norm() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    layer = nn.BatchNorm2d(3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def batch() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(6, 3, 4, 4) * 3 + 100


def test_synchronised_normalisation_equals_torchs_for_the_whole_batch(seen: list[dict[str, Any]]) -> None:
    layer, images = norm(), batch().requires_grad_()
    expected = layer(images)
    (expected * torch.arange(6.0).view(6, 1, 1, 1)).sum().backward()
    for output, gradient, variance in (one["normalised"] for one in seen):
        torch.testing.assert_close(output, expected.detach(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(gradient, images.grad, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(variance, layer.running_var, rtol=1e-3, atol=1e-3)


def test_in_evaluation_it_is_what_it_was() -> None:
    plain, synced = norm().eval(), norm().eval()
    synchronize(synced)
    assert type(synced) is not nn.BatchNorm2d
    assert torch.equal(plain(batch()), synced(batch()))
    assert plain.state_dict().keys() == synced.state_dict().keys()


def test_one_process_is_a_replica_of_its_own() -> None:
    network, own = nn.Linear(2, 2), Replicas()
    assert own.forward(network) is network
    tensor = torch.ones(3)
    assert own.share(tensor) is own.total(tensor) is own.gather(tensor) is tensor
    state = torch.get_rng_state()
    with own.own_random():
        pass
    assert torch.equal(torch.get_rng_state(), state)
    assert functional.mse_loss(tensor, tensor) == 0


@pytest.mark.parametrize(("workers", "batch", "validation", "most"), [(5, 9, 100, 4), (3, 64, 2, 2), (2, 3, 9, 1)])
def test_more_workers_than_images_in_a_batch_are_refused(workers: int, batch: int, validation: int, most: int) -> None:
    with pytest.raises(RequestError, match=f"workers={workers} is too many .* at most {most}, or raise batch_size"):
        require_enough(workers, batch, validation)
    require_enough(most, batch, validation)


@pytest.mark.parametrize(
    ("workers", "batch", "micro_batches", "message"),
    [
        (1, 9, 5, "micro_batches=5 is too many for a batch of 9 images: .* at most 4, or raise batch_size"),
        (2, 9, 3, "micro_batches=3 is too many for each worker's share of a batch, 4 images: .* at most 2, or raise"),
    ],
)
def test_more_parts_than_images_in_a_share_are_refused(
    workers: int, batch: int, micro_batches: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        require_enough(workers, batch, 100, micro_batches)
    require_enough(workers, batch, 100, micro_batches - 1)

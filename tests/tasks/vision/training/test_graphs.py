"""Recording needs a GPU; what is decided around it does not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.vision.training.graphs import Recorded


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for torch's recording, which also tries the network and replaces the module's `forward`."""
    made: list[Any] = []

    def record(module: nn.Module, arguments: tuple[Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
        assert module.training
        for _ in range(3):
            module(*arguments)
        made.append(arguments[0])
        module.forward = lambda images: torch.full((len(images), 2), 7.0)  # type: ignore[method-assign]
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return made


def network() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).train()


def test_batches_of_the_first_shape_run_as_the_recording_and_others_as_they_are(recordings: list[Any]) -> None:
    plain = network()
    recorded = Recorded(plain)
    images = torch.rand(4, 3, 8, 8)
    assert (recorded(images) == recorded(images + 1)).all()
    assert (recorded(images) == 7).all()
    assert len(recordings) == 1
    other = recorded(images[:3])
    assert (other != 7).all()
    assert len(recordings) == 1


def test_trial_runs_leave_the_statistics_and_the_network_as_they_were(recordings: list[Any]) -> None:
    plain = network()
    before = copy.deepcopy(plain.state_dict())
    Recorded(plain)(torch.rand(4, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert (plain(torch.rand(4, 3, 8, 8)) != 7).all()
    assert (copy.deepcopy(plain)(torch.rand(4, 3, 8, 8)) != 7).all()


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted\nwhile capturing"), torch.OutOfMemoryError("full")]
)
def test_a_network_that_cannot_be_recorded_trains_as_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def refuse(*arguments: Any, **options: Any) -> None:
        tries.append(arguments)
        raise error

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    plain, images = network(), torch.rand(4, 3, 8, 8)
    recorded = Recorded(plain)
    with caplog.at_level(logging.INFO, "tasks.train"):
        assert torch.equal(recorded(images), plain(images))
        recorded(images)
    assert len(tries) == 1
    assert caplog.messages == [f"training without CUDA graphs, more slowly: {str(error).splitlines()[0]}"]

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from tasks.errors import ModelError
from tasks.serving.follower import Follower
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Target, parse
from tests.waiting import until


def target(version: int) -> Target:
    return Target(f"models:/cats/{version}", "cats", version, "0" * 32)


def loaded(wanted: Target) -> ServedModel:
    return ServedModel(wanted, ("a", "b"), (1, 8, 8), {}, lambda images: np.zeros((len(images), 2), np.float32))


class Registry:
    """What the alias names, and which versions cannot be loaded and why."""

    def __init__(self) -> None:
        self.champion: Target | Exception = ModelError("no champion yet")
        self.broken: dict[int, Exception] = {}
        self.loads: list[int] = []

    def resolve(self, reference: object) -> Target:
        if isinstance(self.champion, Exception):
            raise self.champion
        return self.champion

    def load(self, wanted: Target) -> ServedModel:
        self.loads.append(wanted.version or 0)
        if wanted.version in self.broken:
            raise self.broken[wanted.version]
        return loaded(wanted)


def test_woken_it_looks_at_once_also_at_what_it_refused(registry: Registry) -> None:
    follower = Follower(parse(None, "cats"), 3600, registry.resolve, registry.load)
    registry.champion, registry.broken[1] = target(1), ModelError("bad file")
    follower.start()
    until(lambda: follower.problem is not None)
    registry.broken.clear()
    follower.wake()
    until(lambda: follower.current is not None)
    follower.stop()
    follower.join()
    assert registry.loads == [1, 1]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def follower(registry: Registry) -> Follower:
    return Follower(parse(None, "cats"), 0.01, registry.resolve, registry.load)


def version(follower: Follower) -> int | None:
    return follower.current.target.version if follower.current else None


def test_serves_nothing_until_there_is_a_champion(follower: Follower, registry: Registry) -> None:
    follower.poll()
    assert (version(follower), follower.problem) == (None, "no champion yet")
    registry.champion = target(1)
    follower.poll()
    assert (version(follower), follower.problem) == (1, None)


def test_loads_a_version_once(follower: Follower, registry: Registry) -> None:
    registry.champion = target(1)
    for _ in range(3):
        follower.poll()
    registry.champion = target(2)
    follower.poll()
    assert (registry.loads, version(follower)) == ([1, 2], 2)


@pytest.mark.parametrize("failure", [ConnectionError("MLflow is away"), ModelError("alias removed"), RuntimeError("?")])
def test_keeps_serving_when_the_registry_fails(follower: Follower, registry: Registry, failure: Exception) -> None:
    registry.champion = target(1)
    follower.poll()
    registry.champion = failure
    follower.poll()
    assert version(follower) == 1
    assert str(failure) in str(follower.problem)
    registry.champion = target(1)
    follower.poll()
    assert follower.problem is None


def test_keeps_the_old_model_and_does_not_fetch_a_bad_one_at_every_look(
    follower: Follower, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.champion = target(1)
    follower.poll()
    registry.champion, registry.broken = target(2), {2: ValueError("not a zip file")}
    with caplog.at_level(logging.WARNING, "tasks.serving"):
        for _ in range(5):
            follower.poll()
    assert (version(follower), registry.loads) == (1, [1, 2])
    assert follower.problem == "cats version 2 cannot be served: not a zip file"
    assert caplog.text.count("still serving cats version 1") == 1
    registry.champion = target(3)
    follower.poll()
    assert (version(follower), follower.problem) == (3, None)


def test_fetches_again_soon_when_the_store_was_away(follower: Follower, registry: Registry) -> None:
    registry.champion, registry.broken = target(1), {1: ConnectionError("S3 is away")}
    follower.poll()
    registry.broken = {}
    follower.poll()
    assert (version(follower), registry.loads, follower.problem) == (1, [1, 1], None)


def test_goes_back_to_the_old_version(follower: Follower, registry: Registry) -> None:
    registry.champion = target(1)
    follower.poll()
    registry.champion, registry.broken = target(2), {2: ValueError("bad")}
    follower.poll()
    registry.champion = target(1)
    follower.poll()
    assert (version(follower), follower.problem) == (1, None)


def test_the_thread_follows_until_it_is_stopped(registry: Registry) -> None:
    served: dict[int, threading.Event] = {1: threading.Event(), 2: threading.Event()}

    def load(wanted: Target) -> ServedModel:
        served[wanted.version or 0].set()
        return loaded(wanted)

    follower = Follower(parse(None, "cats"), 0.01, registry.resolve, load)
    follower.start()
    for number in (1, 2):
        registry.champion = target(number)
        assert served[number].wait(600)
    follower.stop()
    follower.join()
    assert version(follower) == 2


def test_the_thread_ends_once_a_fixed_version_is_loaded(registry: Registry) -> None:
    registry.champion = target(7)
    follower = Follower(parse("7", "cats"), 0.01, registry.resolve, registry.load)
    follower.start()
    follower.join()
    assert version(follower) == 7

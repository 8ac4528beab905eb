"""Workers of a Ray of this machine, some of which end, cannot start or stay away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import ray

from tasks.cluster import workers
from tasks.cluster.room import require_room
from tasks.cluster.session import ray_with
from tasks.cluster.workers import Workers
from tasks.errors import DataError, UnavailableError
from tasks.settings import Settings


class Fragile:
    """A worker that some texts end."""

    def __init__(self, broken: bool = False) -> None:
        if broken:
            raise DataError("there is no such model here")

    def ready(self) -> str:
        return "machine"

    def twice(self, text: str) -> str:
        if text == "end":
            os._exit(1)
        if text == "refuse":
            raise DataError("it cannot be doubled")
        return 2 * text


@pytest.fixture(scope="module")
def actor() -> Iterator[Any]:
    """What starts a worker, on a Ray with room for one."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="t-") as name:
        patch.setattr(tempfile, "tempdir", name)
        with ray_with(partial(require_room, workers=1, cpus=1), 1, Settings(), 0):
            yield ray.remote(Fragile)


def test_a_call_that_ends_every_worker_ends_the_stage_and_other_calls_do_not(actor: Any) -> None:
    started = Workers(actor.remote, 1, 2)
    says = r"4 workers in a row were lost with the same text, the last one because: "
    with pytest.raises(UnavailableError, match=says):
        started.ask("twice", "end", what="text")
    assert [started.ask("twice", text, what="text") for text in ("one", "two")] == ["oneone", "twotwo"]
    with pytest.raises(DataError, match=r"^it cannot be doubled$"):
        started.ask("twice", "refuse", what="text")
    assert started.ask("twice", "a", what="text") == "aa"
    assert started.machines == {"machine"}
    started.end()


def test_a_worker_that_cannot_start_ends_the_stage(actor: Any) -> None:
    broken = Workers(partial(actor.remote, broken=True), 1, 2)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"a worker cannot start: .*there is no such model here"):
            broken.ask("twice", "one", what="text")
    broken.end()


def test_a_worker_that_stays_away_ends_the_stage(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ABSENT_SECONDS", 0.5)
    absent = Workers(actor.options(num_cpus=99).remote, 1, 2)
    with pytest.raises(UnavailableError, match=r"none of 1 workers has been there for 0 s; see `ray status`"):
        absent.ask("twice", "one", what="text")
    absent.end()

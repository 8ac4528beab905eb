from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.serving.batching import Batcher
from tasks.serving.model import CHUNK, ServedModel
from tasks.serving.model_reference import Target

Pixels = NDArray[np.uint8]
Run = Callable[[Callable[[Batcher], Awaitable[Any]]], Any]


class Held:
    """A model whose passes last until `go`; answers its own number and each image's pixel."""

    def __init__(self, number: int) -> None:
        self.passes: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.number = number
        target = Target("models:/m/1", "m", number, None)
        self.model = ServedModel(target, ("a", "b"), (1, 1, 1), {}, self.forward)

    def forward(self, images: Pixels) -> NDArray[np.float32]:
        self.passes.append(len(images))
        self.begun.set()
        assert self.go.wait(600)
        if self.error:
            raise self.error
        return np.stack([np.array([self.number, image[0, 0, 0]], np.float32) for image in images])


def pixels(*values: int) -> Pixels:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture
def sizes() -> list[int]:
    return []


@pytest.fixture
def run(sizes: list[int]) -> Run:
    def call(scenario: Callable[[Batcher], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            batcher = Batcher(sizes.append)
            try:
                return await asyncio.wait_for(scenario(batcher), 90)
            finally:
                batcher.close()

        return asyncio.run(whole())

    return call


async def busy(batcher: Batcher, held: Held) -> asyncio.Task[Any]:
    """Occupy the model with one image, 0."""
    first = asyncio.create_task(batcher.predict(held.model, pixels(0)))
    await asyncio.to_thread(held.begun.wait, 60)
    return first


async def waiting(batcher: Batcher, *asked: tuple[Held, Pixels]) -> list[asyncio.Task[Any]]:
    """Ask, and let every question get into the queue."""
    tasks = [asyncio.create_task(batcher.predict(held.model, images)) for held, images in asked]
    await asyncio.sleep(0)
    return tasks


def test_idle_goes_at_once_and_what_waits_goes_together(run: Run, sizes: list[int]) -> None:
    held = Held(1)

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, held)
        others = await waiting(batcher, *((held, pixels(value)) for value in range(1, 9)))
        held.go.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.tolist() for answer in answers] == [[[1, value]] for value in range(9)]

    run(scenario)
    assert held.passes == sizes == [1, 8]


def test_a_pass_is_one_models(run: Run) -> None:
    old, new = Held(1), Held(2)
    new.go.set()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, old)
        others = await waiting(
            batcher, (old, pixels(1)), (new, pixels(2)), (new, pixels(3)), (old, pixels(4)), (new, pixels(5))
        )
        old.go.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.tolist()[0] for answer in answers] == [[1, 0], [1, 1], [2, 2], [2, 3], [1, 4], [2, 5]]

    run(scenario)
    assert (sum(old.passes), sum(new.passes)) == (3, 3)
    assert old.passes[0] == 1


def test_no_pass_is_larger_than_a_chunk_and_many_images_let_others_between(run: Run) -> None:
    held = Held(1)

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, held)
        many, single = await waiting(batcher, (held, pixels(*range(CHUNK + 5))), (held, pixels(77)))
        held.go.set()
        await first
        assert (await single).tolist() == [[1, 77]]
        assert (await many).tolist() == [[1, value] for value in range(CHUNK + 5)]

    run(scenario)
    assert held.passes == [1, CHUNK, 1 + 5]  # the single one does not wait for more than one pass of the many


def test_as_many_passes_at_a_time_as_asked_for(run: Run) -> None:
    models = [Held(number) for number in range(3)]

    async def scenario(batcher: Batcher) -> None:
        batcher.resize(2)
        first, second = [await busy(batcher, held) for held in models[:2]]  # both passes run
        [third] = await waiting(batcher, (models[2], pixels(3)))
        batcher.resize(1)
        models[0].go.set()
        assert (await first).tolist() == [[0, 0]]
        await asyncio.to_thread(models[2].begun.wait, 60)
        for held in models[1:]:
            held.go.set()
        assert [(await task).tolist() for task in (second, third)] == [[[1, 0]], [[2, 3]]]
        assert (await batcher.predict(models[0].model, pixels(7))).tolist() == [[0, 7]]

    run(scenario)


def test_who_gave_up_takes_no_room(run: Run) -> None:
    held = Held(1)

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, held)
        gone, stays = await waiting(batcher, (held, pixels(1)), (held, pixels(2)))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        first.cancel()  # also one whose pass runs
        held.go.set()
        assert (await stays).tolist() == [[1, 2]]

    run(scenario)
    assert held.passes == [1, 1]


def test_an_error_is_that_passs_only(run: Run) -> None:
    held, good = Held(1), Held(2)
    held.error = RuntimeError("no memory")
    good.go.set()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, held)
        [second, third] = await waiting(batcher, (held, pixels(1)), (good, pixels(2)))
        held.go.set()
        for asked in (first, second):
            with pytest.raises(RuntimeError, match="no memory"):
                await asked
        assert (await third).tolist() == [[2, 2]]
        held.error = None
        assert (await batcher.predict(held.model, pixels(3))).tolist() == [[1, 3]]

    run(scenario)

"""What passes between the stage and its workers: an actor beside the stage."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import Any

import torch

from tasks.errors import PipelineError

QUEUED = 16  # messages; the first worker waits while the stage is so far behind


@dataclass(frozen=True)
class Failed:
    """A worker found an error that another try would find as well."""

    error: PipelineError


@dataclass(frozen=True)
class Line:
    """A line for the stage's log."""

    text: str


class Relay:
    """Holds the newest state of a training, from which workers begin, and what they tell until the stage reads it."""

    def __init__(self, state: bytes | None) -> None:
        """Begin with the state that the stage goes on from; None: from the start."""
        self._state = state
        self._told: asyncio.Queue[tuple[Any, bytes | None]] = asyncio.Queue(QUEUED)

    async def newest(self) -> bytes | None:
        """Return the state from which workers go on."""
        return self._state

    async def tell(self, event: Any, state: bytes | None = None) -> None:
        """Pass an event on to the stage, with the state after it where there is one."""
        await self._told.put((event, state))
        if state is not None:  # of a worker that is lost while it waits, neither is kept
            self._state = state

    async def next(self, seconds: float) -> tuple[Any, bytes | None] | None:
        """Return the next event and its state; None after so many seconds without one."""
        try:
            return await asyncio.wait_for(self._told.get(), seconds)
        except TimeoutError:
            return None


def packed(state: dict[str, Any]) -> bytes:
    """Return the state of a training as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """Return what `packed` was given: tensors and plain values, on the CPU; nothing in it is executed."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state

"""A training whose batches run on workers: to its caller, the same as one in this process.

    stage: DistributedTraining  <-- events, states --  relay  <--  worker 0, which tells what all of them did
                                                              worker 1, 2, ...: shares of the same batches

Workers get what they need from the stage, by Ray. The stage alone talks to MLflow; nodes of a cluster need no password
for it. After epochs, and at every pause in one, the stage gets the whole state; so a worker that is lost costs the
batches since then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor

from tasks.cluster.answer import answer
from tasks.contract.recipe import Recipe
from tasks.distributed.relay import Failed, Line, packed, unpacked
from tasks.distributed.workers import Running, Work, Workers
from tasks.vision.data.gold import Gold
from tasks.vision.training.events import QUIET_SECONDS, BatchEnd, EpochEnd, Event, Placed
from tasks.vision.training.loop import Training
from tasks.vision.training.replicas import require_enough

log = logging.getLogger("tasks.train")


class DistributedTraining(Training):
    """One training on several workers. What it knows is what they told: every epoch, and now and then the state."""

    runs_here = False

    def __init__(
        self, recipe: Recipe, gold: Gold, trained: Mapping[str, Tensor] | None = None, *, workers: Workers, **other: Any
    ) -> None:
        """Take what `Training` takes; nothing is started yet.

        Raises:
            RequestError: there are more workers than images in a batch allow; and what `Training` raises.
        """
        super().__init__(recipe, gold, trained, **other)
        smallest = len(gold.train) // self.steps_per_epoch
        require_enough(workers.count, smallest, len(gold.validation), self.micro_batches, workers.field)
        self._workers, self._gold, self._trained = workers, gold, trained
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the newest state that the workers told."""
        return super().state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the workers go on from `state`."""
        super().load_state_dict(state)
        self._state = state

    def run(self) -> Generator[Event, None, None]:
        """Train until finished; the workers are gone when this is closed.

        Raises:
            RequestError: the loss is no longer a number, or the workers do not fit on the machines there are.
            UnavailableError: no Ray answers, or workers were lost too often.
        """
        if self.finished:
            return
        work = Work(
            self.recipe,
            self._gold,
            self._trained,
            self.micro_batches,
            None if self._state is None else packed(self._state),
            sum(tensor.nbytes for tensor in self.network.state_dict().values()),
        )
        with self._workers.started(work) as running:
            yield from self._told(running)

    def _told(self, running: Running) -> Generator[Event, None, None]:
        """Yield what the workers tell, once each, after taking over the state that came with it."""
        last, spoke = self.steps_done, time.monotonic()
        placed = False
        while not self.finished:
            message = answer(running.relay.next.remote(1.0))
            if message is None:
                running.require_running()
                if not placed and time.monotonic() - spoke > QUIET_SECONDS:
                    spoke = time.monotonic()
                    log.info("waiting for %d workers", self._workers.count)
                continue
            event, state = message
            known = len(self.history)
            if state is not None:
                self._take_over(unpacked(state))
            match event:
                case Placed():
                    if placed:
                        log.warning("a worker was lost; going on after batch %d", self.steps_done)
                    placed = True
                    yield event
                case Failed():
                    raise event.error
                case Line():
                    log.warning(event.text)
                case BatchEnd() if event.step <= last:
                    pass  # told before a worker was lost
                case BatchEnd():
                    last = event.step
                    yield event
                case EpochEnd() if event.epoch <= known:
                    pass  # likewise
                case EpochEnd():
                    if state is None:
                        self.history.append(event)
                        self._epochs.position = None
                    yield self.history[-1]
                case _:
                    yield event

    def _take_over(self, state: dict[str, Any]) -> None:
        """Keep the newest state; epochs that were told before a worker was lost stay told."""
        told = self.history
        self.load_state_dict(state)
        if len(told) > len(self.history):
            self.history, self._epochs.position = told, None

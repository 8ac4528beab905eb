"""Runs each side of a comparison in a process of its own: none profits from another's threads, caches or memory."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Epoch = Callable[[], float]


class Side:
    """One way of training, in a process of its own, run an epoch at a time.

    Use it with `contextlib.closing`: this process does not end before its sides do.
    """

    def __init__(self, make: Callable[P, tuple[Epoch, float]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Start the process and wait until it is ready to train.

        Args:
            make: returns a function that trains an epoch and returns images per second, and the seconds that it took
                to read all images once.
            args: of `make`; they are sent to the process.
            kwargs: of `make`.

        Raises:
            EOFError: the process ended, and has printed why.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args, kwargs))
        self._process.start()
        theirs.close()  # or its end would never be noticed
        self.reading: float = self._pipe.recv()
        """Seconds to read and decode all images once."""

    def epoch(self) -> float:
        """Train one epoch and return images per second."""
        self._pipe.send("epoch")
        rate: float = self._pipe.recv()
        return rate

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it has failed, and ended already
            self._pipe.send("end")
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., tuple[Epoch, float]], args: tuple, kwargs: dict) -> None:
    epoch, reading = make(*args, **kwargs)
    pipe.send(reading)
    while pipe.recv() == "epoch":
        pipe.send(epoch())


def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process and return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def say(number: int, name: str, rate: float) -> None:
    """Tell what was measured in a round; round 0 only warms up."""
    print(f"{f'round {number}' if number else 'warm-up'}: {name}: {rate:.1f} images/s", file=sys.stderr, flush=True)

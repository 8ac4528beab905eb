from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tasks.records.termination import sigterm_delayed


class StoppedError(Exception):
    """Raised by the handler of these tests."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def test_what_is_inside_is_done_as_a_whole() -> None:
    done = []

    def work() -> None:
        with sigterm_delayed():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("first")
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("second")

    with pytest.raises(StoppedError):
        work()
    assert done == ["first", "second"]
    with pytest.raises(StoppedError):
        os.kill(os.getpid(), signal.SIGTERM)


def test_without_a_signal_nothing_happens() -> None:
    with sigterm_delayed():
        pass


def test_a_failure_inside_comes_out() -> None:
    with pytest.raises(KeyError), sigterm_delayed():
        raise KeyError


def test_other_threads_may_use_it_too() -> None:
    done = []

    def work() -> None:
        with sigterm_delayed():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]

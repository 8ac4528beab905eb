from __future__ import annotations

import logging

import pytest

from tasks.vision.data.progress import Progress


def test_the_last_line_always_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress("images read", 30, interval=3600)
    for _ in range(3):
        progress.advance(10)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("images read: 30 of 30, ")
    assert caplog.messages[0].endswith(" per second, 0 s left")


def test_a_line_comes_after_every_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress("images read", 1000, interval=0)
    progress.advance(100)
    progress.advance(100)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "images read: 100 of 1000",
        "images read: 200 of 1000",
    ]

"""What is read from the words of Postgres' server, on whichever stream Compose passes them on."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.backup_stack import ComposeStack

STARTING = "2026-03-01 12:00:00 UTC [9] FATAL:  the database system is starting up"
ENDED = "2026-03-01 12:00:01 UTC [7] FATAL:  recovery ended before configured recovery target was reached"


class Saying(ComposeStack):
    """A stack whose services have written some lines."""

    def __init__(self, stream: int, *lines: str) -> None:
        super().__init__(Path("none"))
        self._command = ["sh", "-c", f"printf '%s\\n' \"$@\" >&{stream}", "-", *lines]

    def _compose(self, *arguments: str, work: bool = False) -> list[str]:
        return self._command


@pytest.mark.parametrize("stream", [1, 2])
def test_the_error_for_which_postgres_ended_is_found(stream: int) -> None:
    said = Saying(stream, STARTING, ENDED, STARTING, "LOG:  database system is shut down")
    assert said.fatal_error("postgres") == ENDED


def test_a_client_that_came_too_early_is_no_error_of_the_server() -> None:
    assert Saying(2, STARTING, "LOG:  redo starts at 0/3000028").fatal_error("postgres") == ""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.operator import log_stream
from pipeline.operator.log_stream import BEGINNING, Moment, follow, moment_of


class CutError(Exception):
    pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "PAUSE", 0)


def stamped(*texts: str) -> list[bytes]:
    return [f"2026-01-31T06:00:0{number}.5Z {text}\n".encode() for number, text in enumerate(texts)]


def test_lines_come_without_their_times_however_they_are_cut_into_chunks() -> None:
    whole = b"".join(stamped("one", "zwei Wörter", ""))
    chunks = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    assert list(follow(lambda after: chunks, lambda: False, (CutError,))) == ["one", "zwei Wörter", ""]


def test_a_last_line_without_its_end_is_a_line() -> None:
    assert list(follow(lambda after: [b"2026-01-31T06:00:00Z last"], lambda: False, (CutError,))) == ["last"]


def test_a_stream_that_is_cut_goes_on_where_it_stopped() -> None:
    lines, asked = stamped("one", "two", "three"), []

    def opened(after: Moment) -> Iterator[bytes]:
        asked.append(after)
        yield from lines[: len(asked)]
        if len(asked) < 3:
            raise CutError

    assert list(follow(opened, lambda: len(asked) < 2, (CutError,))) == ["one", "two", "three"]
    assert asked[0] == BEGINNING
    assert asked[1] == (1769839200, 500000000)


def test_what_was_written_before_the_end_is_read_after_it() -> None:
    running = iter([True, False])
    streams = iter([stamped("one"), stamped("one", "two")])
    assert list(follow(lambda after: next(streams), lambda: next(running), (CutError,))) == ["one", "two"]


def test_a_line_that_has_no_time_is_the_servers_and_not_the_stages() -> None:
    """A kubelet writes `unable to retrieve container logs for docker://...` into a log that it has let go of."""
    chunks = [*stamped("one"), b"unable to retrieve container logs for docker://0123\n"]
    assert list(follow(lambda after: chunks, lambda: False, (CutError,))) == ["one"]


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("2026-01-31T06:00:00Z", (1769839200, 0)),
        ("2026-01-31T06:00:00.5Z", (1769839200, 500_000_000)),
        ("2026-01-31T06:00:00.000000001Z", (1769839200, 1)),
        ("2026-01-31T07:30:00.25+01:30", (1769839200, 250_000_000)),
        ("2026-01-31", None),
        ("", None),
    ],
)
def test_times_are_compared_whatever_their_form(stamp: str, moment: Moment | None) -> None:
    assert moment_of(stamp) == moment


def test_what_is_no_cut_is_not_hidden() -> None:
    def opened(after: Moment) -> Iterator[bytes]:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        list(follow(opened, lambda: False, (CutError,)))

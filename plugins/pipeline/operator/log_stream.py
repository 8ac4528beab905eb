"""A log that is followed: lines with the time of each, read on where a stream was cut; for engine and cluster alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

PAUSE = 0.5  # seconds before a cut stream is opened again
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")

Moment = tuple[int, int]  # seconds since 1970, and nanoseconds
BEGINNING: Moment = (0, 0)


def follow(
    opened: Callable[[Moment], Iterable[bytes]], running: Callable[[], bool], cut: tuple[type[Exception], ...]
) -> Iterator[str]:
    """Yield the lines of a log until what writes it has ended.

    A stream that is cut, by a proxy's idle timeout or a client's, is opened again where it stopped.

    Args:
        opened: opens the stream with the lines from a moment's second on; each begins with its time in RFC 3339.
        running: tells whether more may come; raises what ends the wait for a server that is really away.
        cut: what a stream raises that is cut.
    """
    last = BEGINNING
    while True:
        # Asked before reading: what was written before the end is then read to the end.
        more = running()
        after = last
        try:
            for moment, line in _stamped(opened(after)):
                if moment > after:
                    last = moment
                    yield line
        except cut:
            time.sleep(PAUSE)
        else:
            if not more:
                return


def moment_of(stamp: str) -> Moment | None:
    """Read a time in RFC 3339, whatever its fraction's width and its zone; None when it is none."""
    found = STAMP.fullmatch(stamp)
    if found is None:
        return None
    second, fraction, zone = found.groups()
    whole = datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    return int(whole.timestamp()), int((fraction or "0")[:9].ljust(9, "0"))


def _stamped(chunks: Iterable[bytes]) -> Iterator[tuple[Moment, str]]:
    for raw in _lines(chunks):
        stamp, _, line = raw.decode("utf-8", errors="replace").partition(" ")
        moment = moment_of(stamp)
        if moment is not None:  # else the server's own word on the log, as that it cannot be had
            yield moment, line.rstrip()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest

"""Follows a log of timestamped lines, and resumes where a stream was cut; for Docker and Kubernetes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

PAUSE = 0.5  # seconds before a cut stream is reopened
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")

Moment = tuple[int, int]  # seconds since 1970, and nanoseconds
BEGINNING: Moment = (0, 0)


def follow(
    opened: Callable[[Moment], Iterable[bytes]], running: Callable[[], bool], cut: tuple[type[Exception], ...]
) -> Iterator[str]:
    """Yield the lines of a log until its writer has ended.

    A stream that is cut, for example by the idle timeout of a proxy, is reopened where it stopped.

    Args:
        opened: opens the stream from the second of a given moment on; each line begins with its time in RFC 3339.
        running: tells whether more lines may come; raises when the server stays unreachable.
        cut: the exceptions that a cut stream raises.
    """
    last = BEGINNING
    while True:
        # Checked before reading, so that everything written before the end is still read.
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
    """Parse a time in RFC 3339 with any number of decimals and any zone; None when it is not one."""
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
        if moment is not None:  # else it is a message of the server, such as that the log is unavailable
            yield moment, line.rstrip()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest

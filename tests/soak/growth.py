"""What grew from the first days of a soak to the last ones, and whether that is too much."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LIMIT = 0.10  # of the first days' value
NOISE = 2  # a count may be this much higher: one more connection in a pool is not a leak
WARM_UP = 0.1  # of the runs: caches fill, pools open
PART = 0.2  # of the runs after it, at each end
LEFT = "left: "
"""Prefix of counts that must be the same after every run as before the first."""
TOLD = "memory MiB: "
"""Prefix of values that are reported, not judged: allocators keep what they once had."""
SECONDS = "seconds"


@dataclass(frozen=True)
class Day:
    """One DAG run, and what there was after it."""

    number: int
    seconds: float
    killed: str
    """Stage whose container was killed; empty for none."""
    state: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """One measure's two ends."""

    name: str
    first: float
    last: float
    too_much: bool

    @property
    def text(self) -> str:
        """What it grew by, in percent; absolute where it was zero."""
        if self.first:
            return f"{self.last / self.first - 1:+.1%}"
        return f"{self.last - self.first:+g}"


def ends(days: Sequence[Day]) -> tuple[list[Day], list[Day]]:
    """First and last days that are compared, after the warm-up.

    Raises:
        ValueError: there are too few days for two ends that do not overlap.
    """
    warm = days[max(1, round(WARM_UP * len(days))) :]
    part = max(1, round(PART * len(warm)))
    if len(warm) < 2 * part:
        raise ValueError(f"{len(days)} runs are too few to see growth in; give at least 3")
    return list(warm[:part]), list(warm[-part:])


def growths(before: Mapping[str, int], days: Sequence[Day]) -> list[Growth]:
    """Judge every measure: time per run, without runs in which a stage was killed; leftovers; counts.

    Args:
        before: the counts before the first run.
        days: at least three.
    """
    early, late = ends(days)
    found = [_seconds([day for day in days if not day.killed])]
    for name in days[-1].counts:
        if name.startswith(LEFT):
            most = max(day.counts[name] for day in days)
            found.append(Growth(name, before[name], most, most > before[name]))
            continue
        first, last = (statistics.median(day.counts[name] for day in part) for part in (early, late))
        judged = not name.startswith(TOLD)
        found.append(Growth(name, first, last, judged and last - first > max(LIMIT * first, NOISE)))
    return found


def _seconds(days: Sequence[Day]) -> Growth:
    early, late = ends(days)
    first, last = (statistics.median(day.seconds for day in part) for part in (early, late))
    return Growth(SECONDS, first, last, last > (1 + LIMIT) * first)

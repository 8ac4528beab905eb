"""What the names of base backups and WAL files say: which times can be restored, from which files, and what is missing.

    vision-mlops-base-SYSTEM-TIMELINE-SEGMENT-TIME.backup       a base backup; it needs the WAL from SEGMENT on
    vision-mlops-wal-SYSTEM-TIMELINE-FIRST-LAST-TIME.backup     WAL; with what is before it, all until TIME

SYSTEM is Postgres' system identifier; another Postgres, or another timeline of it, has a history of its own. Segments
are numbered one after the other, whatever the form of their names. So a hole is seen without opening a file. Standard
library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deploy.backup_stack import BackupError
from deploy.errors import NO_INPUT, USAGE

STAMP = "%Y%m%dT%H%M%S.%fZ"
_TIME = r"(?P<time>\d{8}T\d{6}\.\d{6}Z)\.backup"
_BASE = re.compile(rf"vision-mlops-base-(?P<history>\d+-\d+)-(?P<segment>\d+)-{_TIME}")
_WAL = re.compile(rf"vision-mlops-wal-(?P<history>\d+-\d+)-(?P<first>\d+)-(?P<last>\d+)-{_TIME}")
NEWEST = "latest"


@dataclass(frozen=True)
class Base:
    """A base backup: `time` is the earliest one that it can be brought to."""

    history: str
    segment: int
    time: datetime

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"vision-mlops-base-{self.history}-{self.segment:010}-{self.time.strftime(STAMP)}.backup"


@dataclass(frozen=True)
class Wal:
    """A file of WAL segments: with all before it, what was committed until `time`."""

    history: str
    first: int
    last: int
    time: datetime

    @property
    def name(self) -> str:
        """Name of its file."""
        segments = f"{self.first:010}-{self.last:010}"
        return f"vision-mlops-wal-{self.history}-{segments}-{self.time.strftime(STAMP)}.backup"


@dataclass(frozen=True)
class Hole:
    """Segments that are missing between two files."""

    before: Wal
    after: Wal

    def __str__(self) -> str:
        count = self.after.first - self.before.last - 1
        return f"{count} WAL segments are missing between {self.before.name} and {self.after.name}"


@dataclass(frozen=True)
class Span:
    """A base backup and the WAL files that follow it without a hole: any time between its two can be restored."""

    base: Base
    wal: Sequence[Wal]

    @property
    def start(self) -> datetime:
        """The earliest time."""
        return self.base.time

    @property
    def end(self) -> datetime:
        """The latest time; before the earliest one while the WAL written during the base backup is not there yet."""
        return max((wal.time for wal in self.wal), default=datetime.min.replace(tzinfo=UTC))

    @property
    def following(self) -> int:
        """Number of the segment that continues it."""
        return self.wal[-1].last + 1 if self.wal else self.base.segment

    def until(self, time: datetime) -> list[str]:
        """Return the names of the files that a restore to this time needs, in order."""
        needed = []
        for wal in self.wal:
            needed.append(wal.name)
            if wal.time >= time:
                break
        return [self.base.name, *needed]


class Kept:
    """The base backups and WAL files at a place."""

    def __init__(self, names: Iterable[str]) -> None:
        """Read the names; those of other files are left out."""
        self.bases: list[Base] = []
        self.wal: list[Wal] = []
        for name in names:
            if found := _BASE.fullmatch(name):
                self.bases.append(Base(found["history"], int(found["segment"]), time_of(found["time"])))
            elif found := _WAL.fullmatch(name):
                first, last = int(found["first"]), int(found["last"])
                self.wal.append(Wal(found["history"], first, last, time_of(found["time"])))
        self.bases.sort(key=lambda base: base.time)
        self.wal.sort(key=lambda wal: (wal.history, wal.first, wal.last))

    def span(self, base: Base) -> Span:
        """Return what follows a base backup without a hole."""
        needed, chain = base.segment, []
        for wal in self.wal:
            if wal.history != base.history or wal.last < needed:
                continue
            if wal.first > needed:
                break
            chain.append(wal)
            needed = wal.last + 1
        return Span(base, chain)

    def usable(self) -> list[Span]:
        """Return what can be restored, by the time of the base backup."""
        return [span for span in map(self.span, self.bases) if span.end >= span.start]

    def newest(self, history: str) -> Wal | None:
        """Return the WAL file of a history that reaches furthest."""
        return max((wal for wal in self.wal if wal.history == history), key=lambda wal: wal.last, default=None)

    def continued(self, history: str) -> Base | None:
        """Return the newest base backup whose WAL has no hole up to the newest; none if each has one."""
        newest = self.newest(history)
        for base in reversed(self.bases):
            if base.history == history and (newest is None or self.span(base).following > newest.last):
                return base
        return None

    def holes(self) -> list[Hole]:
        """Return where WAL is missing that a later file continues, by history."""
        found: list[Hole] = []
        before: Wal | None = None
        for wal in self.wal:
            if before is None or before.history != wal.history:
                before = wal
            if wal.first > before.last + 1:
                found.append(Hole(before, wal))
            if wal.last > before.last:
                before = wal
        return found

    def plan(self, time: datetime) -> Span:
        """Return what a restore to a time starts from.

        Raises:
            BackupError: that time cannot be restored; the text names those that can be, and the nearest of them.
        """
        spans = self.usable()
        if fitting := [span for span in spans if span.start <= time <= span.end]:
            return fitting[-1]
        if not spans:
            raise BackupError("no time can be restored yet: there is no base backup with its WAL", NO_INPUT)
        bounds = [bound for span in spans for bound in (span.start, span.end)]
        nearest = min(bounds, key=lambda bound: abs(bound - time))
        raise BackupError(
            f"TIME={shown(time)} cannot be restored; the nearest that can: {shown(nearest)}. {self}", NO_INPUT
        )

    def __str__(self) -> str:
        stretches = [f"{shown(start)} to {shown(end)}" for start, end in joined(self.usable())]
        return f"Kept: {', '.join(stretches) or 'nothing yet'}"

    def outdated(self, days: int, now: datetime) -> list[str]:
        """Return the names of the files that no restore to one of the last `days` days needs; none if `days` is 0."""
        limit = now - timedelta(days=days)
        older = [span.base for span in self.usable() if span.base.time <= limit]
        if not days or not older:
            return []
        bases = [base for base in self.bases if base.time >= older[-1].time]
        first = {
            history: min(b.segment for b in bases if b.history == history) for history in {b.history for b in bases}
        }
        gone = [base.name for base in self.bases if base not in bases]
        for wal in self.wal:
            if wal.last < first[wal.history] if wal.history in first else wal.time < limit:
                gone.append(wal.name)
        return gone


def joined(spans: Sequence[Span]) -> list[tuple[datetime, datetime]]:
    """Return the times that can be restored, as few stretches as possible."""
    stretches: list[tuple[datetime, datetime]] = []
    for span in spans:
        if stretches and span.start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(stretches[-1][1], span.end))
        else:
            stretches.append((span.start, span.end))
    return stretches


def time_given(text: str, kept: Kept) -> datetime:
    """Return the time that TIME= names: as ISO 8601 has it, in UTC if it names no zone, or `latest`.

    Raises:
        BackupError: it is no time, or nothing can be restored yet.
    """
    if text == NEWEST:
        return max((span.end for span in kept.usable()), default=datetime.now(UTC))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BackupError(
            f"TIME={text} is no time; such as TIME=2026-03-01T14:05:00Z, 2026-03-01T15:05:00+01:00 or {NEWEST}", USAGE
        ) from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def shown(time: datetime) -> str:
    """Return a time as it can be given again."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_of(stamp: str) -> datetime:
    """Return the time that a name gives."""
    return datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)

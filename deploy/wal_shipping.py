"""What a timer calls every few minutes: brings Postgres' WAL to where backups are kept, for `make restore-to`.

Postgres holds back WAL until it is there, up to a limit: then it gives it up rather than fill its disk, the history has
a hole, and the next call that can ships a base backup, which begins anew. Otherwise there is a base backup a day. Each
file is encrypted and authenticated like a nightly backup. What was shipped is known from the names at the place alone,
so that a call that was killed costs nothing. Standard library only.
"""

from __future__ import annotations

import fcntl
import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from deploy import backup_encryption, backup_file
from deploy.backup_places import Bucket, Folder, place_of
from deploy.backup_stack import BackupError, ComposeStack
from deploy.errors import CANNOT_CREATE, CONFIG, DAMAGED
from deploy.nightly_backup import METRICS as NIGHTLY_METRICS
from deploy.nightly_backup import write_metrics
from deploy.wal_chain import Base, Hole, Kept, Wal, shown
from deploy.wal_source import Source, State

SWITCH, HELD, DAYS = "BACKUP_WAL", "BACKUP_WAL_HELD_MB", "BACKUP_WAL_KEEP_DAYS"
SETTINGS = (SWITCH, HELD, DAYS)
HELD_MB, LEAST_MB, KEEP_DAYS = 4096, 64, 7
BASE_EVERY = timedelta(hours=24)
METRICS = NIGHTLY_METRICS.with_name("backup_wal.prom")
BASE_MEMBER, WAL_MEMBERS = "base.tar.gz", "wal/"


@dataclass(frozen=True)
class _Shipper:
    """Postgres' WAL, where it goes, and with which key."""

    source: Source
    place: Folder | Bucket
    keys: Sequence[str]
    held_mb: int

    def ship(self) -> tuple[list[str], Kept]:
        """Bring all WAL there that is not there yet, also that of a segment that is not full.

        Returns:
            Lines that say what was done, and what is there now.
        """
        names = list(self.place.names())  # first: no segment is ended for a place that does not answer
        done = []
        if self.source.hold(self.held_mb):
            done.append(
                f"Postgres gave up WAL that could not be shipped, at {HELD}={self.held_mb}: the time since the last "
                "that was shipped cannot be restored; a base backup begins anew"
            )
        until = self.source.end_segment()
        state = self.source.state()
        before = Kept(names).newest(state.history)
        first = (state.held or 0) // state.size
        if before is not None and before.last >= first:
            first = before.last + 1
        last = state.now // state.size - 1
        if last < first:
            raise BackupError(
                f"{before and before.name} has WAL that this Postgres has not written yet: its volume is an older "
                "copy of itself; name another BACKUP_FOLDER or BACKUP_BUCKET for what it writes from now on",
                DAMAGED,
            )
        wal = Wal(state.history, first, last, until)
        with self._new(wal.name) as writer:
            for number in range(first, last + 1):
                with tempfile.TemporaryFile() as segment:
                    self.source.read(state, number, segment)
                    size = segment.seek(0, io.SEEK_END)
                    segment.seek(0)
                    writer.add(f"{WAL_MEMBERS}{state.segment(number)}.gz", segment, size)
        self.source.release((last + 1) * state.size)
        done.append(f"{last - first + 1} WAL segments until {shown(wal.time)}: {wal.name}")
        return done, Kept([*names, wal.name])

    def back_up(self) -> str:
        """Make a base backup; it is usable once the WAL until its end is there."""
        state = self.source.state()
        with tempfile.TemporaryFile() as tar:
            size = self.source.read_base(tar)
            tar.seek(0)
            base = Base(state.history, state.now // state.size, self.source.now())
            with self._new(base.name) as writer:
                writer.add(BASE_MEMBER, tar, size)
        return f"base backup: {base.name}"

    @contextmanager
    def _new(self, name: str) -> Iterator[backup_file.BackupWriter]:
        """Write a file and keep it at the place; when that fails, nothing of it stays here."""
        path = self.place.folder / name
        try:
            with backup_file.create(path, self.keys[0]) as writer:
                yield writer
            backup_encryption.authenticate(path, self.keys)
            self.place.put(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BackupError(f"{path}: {error.strerror or error}; free space there", CANNOT_CREATE) from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def run(stack: ComposeStack, values: Mapping[str, str], metrics: Path, *, wait: float = 0) -> list[str]:
    """Ship WAL, make a base backup if one is due, delete what is too old; return lines that say what was done.

    Args:
        stack: the stack.
        values: its `.env`.
        metrics: the file for node-exporter.
        wait: how many seconds to wait for another call to end; then nothing is done.

    Raises:
        BackupError: a setting is wrong, or a step failed.
    """
    held, source = metrics.with_name(f"{metrics.stem}_held{metrics.suffix}"), Source(stack)
    if not is_on(values):
        metrics.unlink(missing_ok=True)
        held.unlink(missing_ok=True)
        removed = "; the replication slot was removed" if source.let_go() else ""
        return [f"{SWITCH} is not 1 in .env: no WAL is shipped{removed}"]
    days, held_mb = _number(values, DAYS, KEEP_DAYS), _number(values, HELD, HELD_MB, LEAST_MB)
    place = place_of(values, stack)
    shipper = _Shipper(source, place, backup_encryption.keys(values), held_mb)
    write_metrics(held, _held(source.state(), held_mb))
    with alone(place.folder, "ship-wal", wait) as first:
        if not first:
            return ["another ship-wal is at work"]
        done, kept = shipper.ship()
    history = source.state().history
    write_metrics(metrics, _shipped(kept, history))
    base = kept.continued(history)
    if base is None or datetime.now(UTC) - base.time > BASE_EVERY:
        with alone(place.folder, "base-backup") as first:  # the next call ships WAL meanwhile
            if first:
                done.append(shipper.back_up())
        with alone(place.folder, "ship-wal") as only:
            if first and only:
                more, kept = shipper.ship()
                done += more
    if old := kept.outdated(days, datetime.now(UTC)):
        place.delete(old)
        done.append(f"deleted, as no restore to one of the last {days} days needs them: {len(old)} files")
    write_metrics(held, _held(source.state(), held_mb))
    write_metrics(metrics, _shipped(kept, history))
    return done + [f"{hole}; those times cannot be restored" for hole in kept.holes() if _is_news(hole)]


def is_on(values: Mapping[str, str]) -> bool:
    """Tell whether `.env` turns shipping on.

    Raises:
        BackupError: it says neither yes nor no.
    """
    if (text := values.get(SWITCH) or "0") not in ("0", "1"):
        raise BackupError(f"{SWITCH}={text} is neither 1 nor 0", CONFIG)
    return text == "1"


@contextmanager
def alone(folder: Path, name: str, wait: float = 0) -> Iterator[bool]:
    """Tell the block whether it is the only one of this name; it must do nothing if it is not.

    Args:
        folder: where the lock is.
        name: of what must not be done twice at once.
        wait: how many seconds to wait for another to end.

    Raises:
        BackupError: the folder cannot be written.
    """
    path = folder / f".{name}.lock"
    try:
        opened = path.open("w")
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}; make BACKUP_FOLDER writable", CANNOT_CREATE) from None
    deadline = time.monotonic() + wait
    with opened as file:
        while not (locked := _locked(file)) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield locked


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_news(hole: Hole) -> bool:
    return datetime.now(UTC) - hole.after.time < timedelta(days=1)


def _held(state: State, held_mb: int) -> dict[str, float]:
    held = 0 if state.held is None else state.now - state.held
    return {"backup_wal_held_bytes": held, "backup_wal_held_limit_bytes": held_mb << 20}


def _shipped(kept: Kept, history: str) -> dict[str, float]:
    newest, base = kept.newest(history), kept.continued(history)
    return {
        "backup_wal_last_success_timestamp_seconds": newest.time.timestamp() if newest else 0,
        "backup_base_last_success_timestamp_seconds": base.time.timestamp() if base else 0,
        "backup_wal_last_hole_timestamp_seconds": max(
            (hole.after.time.timestamp() for hole in kept.holes()), default=0
        ),
    }


def _number(values: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = values.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise BackupError(f"{name}={text} is not a whole number of {least} or more", CONFIG)
    return int(text)

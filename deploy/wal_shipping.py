"""What a timer calls every few minutes: brings Postgres' WAL to where backups are kept, for `make restore-to`.

A replication slot keeps WAL in Postgres until it is there, up to a limit: then Postgres drops it rather than fill its
disk, the history has a hole, and the next call that can ships a base backup, which begins anew. Otherwise there is a
base backup a day. Each file is encrypted and authenticated like a nightly backup. What was shipped is known from the
names at the place alone, so that a call that was killed costs nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from deploy import backup_encryption, backup_file
from deploy.backup_places import Bucket, Folder, place_of
from deploy.backup_stack import BackupError, ComposeStack
from deploy.errors import CANNOT_CREATE, CONFIG, DAMAGED
from deploy.nightly_backup import METRICS as NIGHTLY_METRICS
from deploy.nightly_backup import write_metrics
from deploy.wal_chain import Base, Hole, Kept, Wal, shown, time_of

SWITCH, HELD, DAYS = "BACKUP_WAL", "BACKUP_WAL_HELD_MB", "BACKUP_WAL_KEEP_DAYS"
SETTINGS = (SWITCH, HELD, DAYS)
HELD_MB, LEAST_MB, KEEP_DAYS = 4096, 64, 7
SLOT = "vision_mlops_backup"
BASE_EVERY = timedelta(hours=24)
METRICS = NIGHTLY_METRICS.with_name("backup_wal.prom")
END = b"end of the base backup"  # written after it: a stream that was cut off has none
BASE_MEMBER = "base.tar.gz"
STATE = """SELECT json_build_object(
    'system', (SELECT system_identifier::text FROM pg_control_system()),
    'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
    'size', (SELECT bytes_per_wal_segment FROM pg_control_init()),
    'now', pg_current_wal_insert_lsn() - '0/0',
    'limit', current_setting('max_slot_wal_keep_size'),
    'slot', (SELECT json_build_object('lsn', restart_lsn - '0/0', 'status', wal_status)
             FROM pg_replication_slots WHERE slot_name = :'slot'))"""
CLOCK = """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS.US"Z"');"""
# A recovery to a time ends at the first transaction after it: this one, after the time that the file's name will give.
MARK = f"{CLOCK} SELECT pg_current_xact_id(); SELECT pg_switch_wal();"


@dataclass(frozen=True)
class _Shipper:
    """Postgres, where its WAL goes, and with which key."""

    stack: ComposeStack
    place: Folder | Bucket
    keys: Sequence[str]
    held_mb: int

    def ship(self) -> tuple[list[str], Kept]:
        """Bring all WAL there that is not there yet, also that of a segment that is not full.

        Returns:
            Lines that say what was done, and what is there now.
        """
        done = self._hold()
        names = list(self.place.names())  # first: nothing piles up in Postgres for a place that does not answer
        stamp = self.stack.sql(MARK).splitlines()[0]
        state = self.state()
        history, size = history_of(state), state["size"]
        before = Kept(names).newest(history)
        first = state["slot"]["lsn"] // size
        if before is not None and before.last >= first:
            first = before.last + 1
        last = state["now"] // size - 1
        if last < first:  # a call ends a segment
            raise BackupError(
                f"{before and before.name} has WAL that this Postgres has not written yet: its volume is an older copy of "
                "itself; name another BACKUP_FOLDER or BACKUP_BUCKET for what it writes from now on",
                DAMAGED,
            )
        wal = Wal(history, first, last, time_of(stamp))
        with self._new(wal.name) as writer:
            for number in range(first, last + 1):
                self._add_segment(writer, segment_name(state["timeline"], number, size), size)
        done.append(f"{last - first + 1} WAL segments until {shown(wal.time)}: {wal.name}")
        self.stack.sql("SELECT pg_replication_slot_advance(:'slot', :'lsn')", slot=SLOT, lsn=lsn((last + 1) * size))
        return done, Kept([*names, wal.name])

    def back_up(self) -> str:
        """Make a base backup; it is usable once the WAL until its end is there."""
        state = self.state()
        segment = state["now"] // state["size"]
        options = "--pgdata=- --format=tar --wal-method=none --compress=gzip:1 --checkpoint=fast"
        with tempfile.TemporaryFile() as tar:
            self.stack.postgres(f"pg_basebackup {options} && printf '{END.decode()}'", stdout=tar)
            size = tar.seek(0, io.SEEK_END) - len(END)
            tar.seek(max(size, 0))
            if tar.read() != END:
                raise BackupError("the base backup was cut off; run it again")
            tar.seek(0)
            base = Base(history_of(state), segment, time_of(self.stack.sql(CLOCK)))
            with self._new(base.name) as writer:
                writer.add(BASE_MEMBER, tar, size)
        return f"base backup: {base.name}"

    def state(self) -> dict[str, Any]:
        """Return what Postgres says about its WAL and the slot."""
        return dict(json.loads(self.stack.sql(STATE, slot=SLOT)))

    def _hold(self) -> list[str]:
        """Let Postgres keep WAL, up to the limit; return what happened since the last call, if it matters."""
        done: list[str] = []
        state = self.state()
        if state["limit"] != (wanted := _as_postgres(self.held_mb)):
            self.stack.sql(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{wanted}'; SELECT pg_reload_conf()")
        slot = state["slot"]
        if slot is not None and (slot["lsn"] is None or slot["status"] == "lost"):
            self.stack.sql("SELECT pg_drop_replication_slot(:'slot')", slot=SLOT)
            done.append(
                f"Postgres gave up WAL that could not be shipped, at {HELD}={self.held_mb}: the time since the last "
                "that was shipped cannot be restored; a base backup begins anew"
            )
            slot = None
        if slot is None:
            self.stack.sql("SELECT pg_create_physical_replication_slot(:'slot', true)", slot=SLOT)
        return done

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

    def _add_segment(self, writer: backup_file.BackupWriter, name: str, size: int) -> None:
        with tempfile.TemporaryFile() as zipped:
            self.stack.postgres(f'gzip -1 <"$PGDATA/pg_wal/{name}"', stdout=zipped)
            length = zipped.seek(0, io.SEEK_END)
            zipped.seek(0)
            if _unzipped_size(zipped) != size:
                raise BackupError(f"WAL segment {name} was cut off on its way; run it again")
            zipped.seek(0)
            writer.add(f"wal/{name}.gz", zipped, length)


def run(stack: ComposeStack, values: Mapping[str, str], metrics: Path) -> list[str]:
    """Ship WAL, make a base backup if one is due, delete what is too old; return lines that say what was done.

    Args:
        stack: the stack.
        values: its `.env`.
        metrics: the file for node-exporter.

    Raises:
        BackupError: a setting is wrong, or a step failed.
    """
    held = metrics.with_name(f"{metrics.stem}_held{metrics.suffix}")
    if not is_on(values):
        metrics.unlink(missing_ok=True)
        held.unlink(missing_ok=True)
        return [f"{SWITCH} is not 1 in .env: no WAL is shipped" + _let_go(stack)]
    place, days, held_mb = (
        place_of(values, stack),
        _number(values, DAYS, KEEP_DAYS),
        _number(values, HELD, HELD_MB, LEAST_MB),
    )
    shipper = _Shipper(stack, place, backup_encryption.keys(values), held_mb)
    write_metrics(held, _held(shipper.state(), held_mb))
    with alone(place.folder, "ship-wal") as first:
        if not first:
            return ["another ship-wal is at work"]
        done, kept = shipper.ship()
    history = history_of(shipper.state())
    write_metrics(metrics, _shipped(kept, history))
    if _is_due(kept, history):
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
    write_metrics(held, _held(shipper.state(), held_mb))
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


def segment_name(timeline: int, number: int, size: int) -> str:
    """Return Postgres' name of a WAL segment."""
    high, low = divmod(number, (1 << 32) // size)
    return f"{timeline:08X}{high:08X}{low:08X}"


def lsn(position: int) -> str:
    """Return a position in the WAL as Postgres writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def history_of(state: Mapping[str, Any]) -> str:
    """Return the name of the history that Postgres writes."""
    return f"{state['system']}-{state['timeline']}"


def _is_due(kept: Kept, history: str) -> bool:
    base = kept.continued(history)
    return base is None or datetime.now(UTC) - base.time > BASE_EVERY


def _is_news(hole: Hole) -> bool:
    return datetime.now(UTC) - hole.after.time < timedelta(days=1)


def _held(state: Mapping[str, Any], held_mb: int) -> dict[str, float]:
    slot = state["slot"] or {}
    held = state["now"] - (slot.get("lsn") or state["now"])
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


def _let_go(stack: ComposeStack) -> str:
    """Delete the slot, which would make Postgres keep WAL; return what to say about it."""
    exists = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = :'slot'"
    if "postgres" not in stack.running() or stack.sql(exists, slot=SLOT) == "0":
        return ""
    stack.sql("SELECT pg_drop_replication_slot(:'slot')", slot=SLOT)
    stack.sql("ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()")
    return "; the replication slot was removed"


@contextmanager
def alone(folder: Path, name: str) -> Iterator[bool]:
    """Tell the block whether it is the only one of this name; it must do nothing if it is not.

    Raises:
        BackupError: the folder cannot be written.
    """
    path = folder / f".{name}.lock"
    try:
        opened = path.open("w")
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}; make BACKUP_FOLDER writable", CANNOT_CREATE) from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _number(values: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = values.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise BackupError(f"{name}={text} is not a whole number of {least} or more", CONFIG)
    return int(text)


def _as_postgres(megabytes: int) -> str:
    """Return a size as Postgres shows it."""
    return f"{megabytes // 1024}GB" if megabytes and megabytes % 1024 == 0 else f"{megabytes}MB"


def _unzipped_size(file: IO[bytes]) -> int:
    size = 0
    with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile), gzip.open(file) as content:
        while chunk := content.read(1 << 20):
            size += len(chunk)
    return size
